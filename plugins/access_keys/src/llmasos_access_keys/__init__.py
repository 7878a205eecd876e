"""LLMasOS access control ``keys``: API keys with roles, quotas and an audit log, in SQLite."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from llmasos_hookspecs import Component, Context, hookimpl

if TYPE_CHECKING:
    from llmasos_access_keys.access import KeysAccess


@attrs.frozen(kw_only=True)
class Options:
    """Options of the access control."""

    folder: str = attrs.field(
        default="", metadata={"help": "Folder of the keys, the pepper and the audit log; empty: access in the user's data folder."}
    )
    reservation_hours: float = attrs.field(
        default=6.0,
        validator=attrs.validators.gt(0.0),
        metadata={"help": "Hours after which tokens that a request reserved and never settled are free again."},
    )
    recorded_failures: int = attrs.field(
        default=60,
        validator=attrs.validators.ge(1),
        metadata={"help": "Failed authentications of a minute that are recorded each; of more, the log has the count."},
    )


@hookimpl
def llmasos_component() -> Component:
    return Component(
        summary="API keys with roles, token quotas and an audit log, kept in SQLite; `llmasos keys` makes them.", options=Options
    )


@hookimpl
def llmasos_create_access(options: Options, context: Context) -> KeysAccess:
    from llmasos_access_keys.access import KeysAccess
    from llmasos_access_keys.store import open_store

    return KeysAccess(open_store(options.folder), bound=options.reservation_hours * 3600, failures=options.recorded_failures)
