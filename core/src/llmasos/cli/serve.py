"""``llmasos serve``: run the servers that config names."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Annotated, Final

import typer

from llmasos.cli import options as o
from llmasos.cli.console import print_note
from llmasos_hookspecs import LLMasOSError
from llmasos_hookspecs.guarding.changes import take
from llmasos_hookspecs.nearest import listed

if TYPE_CHECKING:
    from llmasos.api.servers import Servers
    from llmasos_config import Config

#: Has the config read again, where the system knows such a signal.
_RELOAD: Final = getattr(signal, "SIGHUP", None)
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, *([] if _RELOAD is None else [_RELOAD]))


def serve(
    model: o.ModelOption = None,
    config: o.ConfigOption = None,
    overrides: o.SetOption = None,
    loader: o.LoaderOption = None,
    scheduler: o.SchedulerOption = None,
    host: Annotated[str | None, typer.Option("--host", help="Address on which the first server listens.")] = None,
    port: Annotated[int | None, typer.Option("--port", min=0, max=65535, help="Port on which the first server listens.")] = None,
    drain: Annotated[float, typer.Option("--drain", min=0.0, help="Seconds in which answers may end after SIGTERM.")] = 30.0,
    quiet: o.QuietOption = False,
) -> None:
    """Run the servers of the config, or an HTTP server where it names none, until SIGTERM or Ctrl-C; answers that have begun are finished
    first. SIGHUP reads the config again."""
    from llmasos.api.servers import Servers
    from llmasos_engine.heap import freeze_heap

    changes = [*_servers(config, overrides or []), *(overrides or [])]
    changes += [] if host is None else [f"server[0].host={json.dumps(host)}"]
    changes += [] if port is None else [f"server[0].port={port}"]
    pipeline, _ = o.open_pipeline(config, changes, model=model, loader=loader, scheduler=scheduler, quiet=quiet)

    def read_again() -> Config:
        return o.read_config(config, changes, model=model, loader=loader, scheduler=scheduler)[0]

    with pipeline:
        servers = Servers(pipeline, read_again=read_again)
        freeze_heap()
        pipeline.load()
        told: SimpleQueue[int] = SimpleQueue()  # a handler may not take a lock, which its own thread may hold
        before = {each: signal.signal(each, lambda number, _: told.put(number)) for each in _SIGNALS}
        try:
            with servers:
                for endpoint in servers.endpoints:
                    print_note(f"Listening on {endpoint.url or f'{endpoint.host}:{endpoint.port}'}")
                while take(told) == _RELOAD:
                    _reload(servers, read_again)
                for each, handler in before.items():  # a second one ends the program at once
                    signal.signal(each, handler)
                if not servers.drain(drain):
                    print_note(f"Some answers had not ended after {drain:g} seconds.")
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)


def _reload(servers: Servers, read_again: Callable[[], Config]) -> None:
    """Read the config again, and say what came of it; a config that is wrong changes nothing and ends nothing."""
    try:
        changed = servers.reload(read_again())
    except LLMasOSError as error:
        print_note(f"The config was read again, and nothing was changed. {error}")
    else:
        print_note(f"The config was read again; {listed(changed) if changed else 'nothing'} changed.")


def _servers(config: Path | None, overrides: list[str]) -> list[str]:
    """The override that adds the default server where neither the file nor an override names one."""
    from llmasos_config import load_config
    from llmasos_config.catalog import default_component

    others = [each for each in overrides if not each.startswith("server")]
    named = any(each.startswith(("server[0].use=", "server=")) for each in overrides)
    return [] if named or load_config(config, overrides=others).servers else [f"server[0].use={json.dumps(default_component('server'))}"]
