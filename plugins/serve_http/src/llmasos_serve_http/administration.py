"""``/admin``: what operators and administrators see of the runtime, and change in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from starlette.routing import BaseRoute, Route

from llmasos_hookspecs import ConfigError, PluginError, RequestError, ResourceError
from llmasos_serve_http.call import Call
from llmasos_serve_http.dialect import OpenAIDialect
from llmasos_serve_http.failures import refused
from llmasos_serve_http.fields import shown
from llmasos_serve_http.operation import Operation
from llmasos_serve_http.routes import Guarded, Needs, Service
from llmasos_serve_http.schemas import FLAG, OBJECT, TEXT, answer, body, listed
from llmasos_serve_http.threads import Threads

_MODELS: Final = listed(answer(name=TEXT, state=TEXT, pinned=FLAG))
_SEEN: Final = Operation(answer=_MODELS)
_SWITCHED: Final = Operation(body=body({"use": TEXT, "options": OBJECT}, required=["use"]), answer=_MODELS)
_RELOADED: Final = Operation(answer=listed(TEXT))
_PLUGINS: Final = Operation(answer=listed(answer(kind=TEXT, name=TEXT, distribution=TEXT, version=TEXT)))


class Administration:
    """What runs, and changes to it. ``threads``: a change keeps one until it is done."""

    def __init__(self, service: Service, threads: Threads) -> None:
        self._service = service
        self._threads = threads

    def routes(self) -> Iterator[BaseRoute]:
        """Each with its permission; what is about one model needs it for that model."""
        yield self._route("/admin/models", "GET", "inspect", self.models, operation=_SEEN)
        yield self._route("/admin/resources", "GET", "inspect", self.resources)
        yield self._route("/admin/plugins", "GET", "inspect", self.plugins, operation=_PLUGINS)
        yield self._route("/admin/reload", "POST", "administer", self.reload, operation=_RELOADED)
        yield self._route("/admin/scheduler", "POST", "administer", self.scheduler, operation=_SWITCHED)
        for path, handle, operation in (
            ("load", self.load, _SEEN),
            ("unload", self.unload, _SEEN),
            ("pin", self.pin, _SEEN),
            ("unpin", self.unpin, _SEEN),
            ("scheduler", self.scheduler, _SWITCHED),
        ):
            more = {"resource": "model:{name}", "operation": operation}
            yield self._route(f"/admin/models/{{name:path}}/{path}", "POST", "administer", handle, **more)

    def _route(self, path: str, method: str, needs: Needs, handle: Any, **more: Any) -> BaseRoute:
        return Route(path, Guarded(self._service, needs, OpenAIDialect(), handle, **more), methods=[method])

    async def models(self, call: Call) -> None:
        """The state, loader, scheduler, queue and memory of each model."""
        await call.reply({"object": "list", "data": await self._inspected(call)})

    async def resources(self, call: Call) -> None:
        """Memory, models and observers in use."""
        await call.reply(await self._service.threads.call(lambda: dict(self._service.runtime.resources(call.known))))

    async def plugins(self, call: Call) -> None:
        """The installed components."""
        found = await self._service.threads.call(lambda: list(self._service.runtime.plugins(call.known)))
        await call.reply({"object": "list", "data": found})

    async def load(self, call: Call) -> None:
        """Load a model; the answer comes when it is loaded."""
        await self._change(call, lambda: self._service.runtime.load_model(call.known, call.path["name"]))

    async def unload(self, call: Call) -> None:
        """Free a model's engine; its next request loads it again."""
        try:
            await self._change(call, lambda: self._service.runtime.unload_model(call.known, call.path["name"]))
        except ResourceError as error:
            raise refused(409, str(error), "model_in_use") from None

    async def pin(self, call: Call) -> None:
        """Load a model, and never unload it to make room for another."""
        await self._change(call, lambda: self._service.runtime.pin_model(call.known, call.path["name"], True))

    async def unpin(self, call: Call) -> None:
        """Allow again that a model is unloaded to make room for another."""
        await self._change(call, lambda: self._service.runtime.pin_model(call.known, call.path["name"], False))

    async def scheduler(self, call: Call) -> None:
        """Switch one model, or all of them, to the scheduler ``use`` with ``options``; queued and running requests are kept."""
        found = await call.fields()
        use, options = found.get("use"), found.get("options", {})
        if not isinstance(use, str) or not use:
            raise RequestError(f"use is {shown(use)}, and it must be the name of a scheduler.", "use")
        if not isinstance(options, Mapping):
            raise RequestError(f"options is {shown(options)}, and it must be an object.", "options")
        try:
            await self._change(call, lambda: self._service.runtime.use_scheduler(call.known, use, options, model=call.path.get("name")))
        except (PluginError, ConfigError) as error:
            raise RequestError(str(error), "use") from None

    async def reload(self, call: Call) -> None:
        """Read the config again and use it; the answer names what has changed."""
        try:
            changed = await self._threads.call(lambda: list(self._service.runtime.reload(call.known)))
        except (PluginError, ConfigError) as error:
            raise refused(409, str(error), "config_refused") from None
        await call.reply({"object": "list", "data": changed})

    async def _change(self, call: Call, change: Callable[[], object]) -> None:
        """Make a change, and answer with the models as they are after it."""
        await self._threads.call(change)
        name = call.path.get("name")
        models = await self._inspected(call)
        await call.reply({"object": "list", "data": [facts for facts in models if name in (None, facts["name"])]})

    async def _inspected(self, call: Call) -> list[Mapping[str, Any]]:
        return await self._service.threads.call(lambda: list(self._service.runtime.inspect_models(call.known)))
