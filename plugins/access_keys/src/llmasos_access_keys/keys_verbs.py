"""The verbs of ``llmasos keys``."""

from __future__ import annotations

import time
from typing import Annotated, Any, Final

import typer

from llmasos_access_keys.keys import ALL, Key, KeyLimits
from llmasos_access_keys.register import facts_of, usage_of
from llmasos_access_keys.store import Store, open_store
from llmasos_access_keys.times import seconds_of, time_of
from llmasos_hookspecs import AuditEvent, Command, CommandContext

Folder = Annotated[str, typer.Option("--folder", help="The folder of the keys, as [access] of the config has it.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]
Identity = Annotated[str, typer.Argument(metavar="ID", help="The key's public part, as `list` shows it.", show_default=False)]

_COLUMNS: Final = ("id", "label", "tenant", "role", "state", "created", "expires")
_ONCE: Final = "It is shown this once and kept nowhere: store it now."


def make(context: CommandContext) -> Command:
    """The verbs with their options."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, no_args_is_help=True)

    @app.callback()
    def group() -> None:
        """Make, list, rotate and revoke the API keys of servers."""

    @app.command("create")
    def create(
        label: Annotated[str, typer.Argument(help="What you call the key: who has it, or what for.", show_default=False)],
        tenant: Annotated[str, typer.Option("--tenant", help="What its requests are charged to; left out: the label.")] = "",
        role: Annotated[str, typer.Option("--role", help="user, operator or admin.")] = "user",
        models: Annotated[
            list[str] | None, typer.Option("--model", help="A model that it may use; may be given several times. All by default.")
        ] = None,
        tasks: Annotated[
            list[str] | None, typer.Option("--task", help="A task that it may use; may be given several times. All by default.")
        ] = None,
        tools: Annotated[
            list[str] | None, typer.Option("--tool", help="A tool that it may use; may be given several times. All by default.")
        ] = None,
        expires: Annotated[
            str | None, typer.Option("--expires", help="A span such as 90d, or a time of UTC such as 2027-01-31; left out: never.")
        ] = None,
        requests_per_minute: Annotated[int | None, typer.Option("--requests-per-minute", min=1, help="Requests in 60 seconds.")] = None,
        tokens_per_day: Annotated[int | None, typer.Option("--tokens-per-day", min=1, help="Tokens in a day of UTC.")] = None,
        tokens_per_month: Annotated[int | None, typer.Option("--tokens-per-month", min=1, help="Tokens in a month of UTC.")] = None,
        concurrency: Annotated[int | None, typer.Option("--concurrency", min=1, help="Requests at once.")] = None,
        max_new_tokens: Annotated[int | None, typer.Option("--max-new-tokens", min=1, help="New tokens of one request.")] = None,
        priority: Annotated[int, typer.Option("--priority", help="Of its requests, where the scheduler ranks by it.")] = 0,
        weight: Annotated[float, typer.Option("--weight", help="Of its tenant, where the scheduler shares by it.")] = 1.0,
        folder: Folder = "",
        as_json: AsJson = False,
    ) -> None:
        """Make a key, and show it this once."""
        now = time.time()
        limits = KeyLimits(
            requests_per_minute=requests_per_minute,
            tokens_per_day=tokens_per_day,
            tokens_per_month=tokens_per_month,
            concurrency=concurrency,
            max_new_tokens=max_new_tokens,
            priority=priority,
            weight=weight,
        )
        ends = None if expires is None else time_of(expires, now)
        store = open_store(folder)
        key, text = store.keys.create(
            label,
            tenant=tenant or label,
            role=role,
            models=models or (ALL,),
            tasks=tasks or (ALL,),
            tools=tools or (ALL,),
            limits=limits,
            now=now,
            expires=ends,
        )
        _record(store, "create_key", key, now)
        context.answer({"key": text, **facts_of(key, now)}, f"{text}\n{_ONCE}", as_json=as_json)

    @app.command("list")
    def list_keys(folder: Folder = "", as_json: AsJson = False) -> None:
        """List the keys, without their secrets."""
        now = time.time()
        found = [facts_of(key, now) for key in open_store(folder, make=False).keys.all()]
        if as_json:
            context.answer(found, as_json=True)
        else:
            context.table(_COLUMNS, [tuple(str(facts[name] or "") for name in _COLUMNS) for facts in found])

    @app.command("show")
    def show(identity: Identity, folder: Folder = "", as_json: AsJson = False) -> None:
        """Show what a key may do, and what it has used."""
        now = time.time()
        store = open_store(folder, make=False)
        key = store.keys.find(identity)
        facts = {**facts_of(key, now), "usage": usage_of(store, key, now)}
        context.answer(facts, "\n".join(_lines(facts)), as_json=as_json)

    @app.command("rotate")
    def rotate(
        identity: Identity,
        grace: Annotated[str, typer.Option("--grace", help="How long the old key stays valid, such as 1h.")] = "0s",
        expires: Annotated[
            str | None, typer.Option("--expires", help="When the new key ends; left out: when the old one would have.")
        ] = None,
        folder: Folder = "",
        as_json: AsJson = False,
    ) -> None:
        """Make a new key in place of one, with its rights and its usage, and show it this once."""
        now = time.time()
        ends = None if expires is None else time_of(expires, now)
        store = open_store(folder, make=False)
        key, text = store.keys.rotate(identity, now=now, grace=seconds_of(grace), expires=ends)
        _record(store, "rotate_key", key, now, replaces=store.keys.find(identity).id)
        context.answer({"key": text, **facts_of(key, now)}, f"{text}\n{_ONCE}", as_json=as_json)

    @app.command("revoke")
    def revoke(identity: Identity, folder: Folder = "", as_json: AsJson = False) -> None:
        """End a key at once."""
        now = time.time()
        store = open_store(folder, make=False)
        key = store.keys.revoke(identity, now=now)
        _record(store, "revoke_key", key, now)
        context.answer(facts_of(key, now), f"The key {key.id} ({key.label}) is revoked.", as_json=as_json)

    return typer.main.get_command(app)


def _record(store: Store, action: str, key: Key, now: float, **details: Any) -> None:
    """The principal is empty: who may write the folder needs no key."""
    resource = f"key:{key.id}"
    facts = {"label": key.label, "role": key.role, **details}
    store.log.append(AuditEvent(time=now, principal="", tenant=key.tenant, action=action, resource=resource, outcome="done", details=facts))


def _lines(facts: dict[str, Any]) -> list[str]:
    limits = {name: value for name, value in facts["limits"].items() if value is not None}
    shown_facts = {
        **{name: facts[name] for name in ("id", "label", "tenant", "role", "state", "created", "expires", "revoked", "replaced_by")},
        **{name: ", ".join(facts[name]) for name in ("models", "tasks", "tools")},
        **limits,
        **{f"tokens this {period}": f"{count['used']} used, {count['reserved']} reserved" for period, count in facts["usage"].items()},
    }
    return [f"{name.replace('_', ' ')}: {value}" for name, value in shown_facts.items() if value not in (None, "")]
