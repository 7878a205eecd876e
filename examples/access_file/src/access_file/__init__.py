"""An example access control for LLMasOS: the clients stand in a TOML file, each with the SHA-256 of its key.

[keys.reader]
sha256 = "..."            # of a key with 256 random bits: python -c "import secrets; print(secrets.token_urlsafe(32))"
tenant = "library"
models = ["default"]      # left out: all
tokens_per_hour = 100000  # left out: no bound
"""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
import time
import tomllib
from pathlib import Path

import attrs

from llmasos_hookspecs import Component, ConfigError, NotAuthenticated, Principal, QuotaExceeded, hookimpl

#: Seconds after which used tokens no longer count.
HOUR = 3600.0


@attrs.frozen(kw_only=True)
class Options:
    """Options of the access control."""

    file: str = attrs.field(default="keys.toml", metadata={"help": "The TOML file of the clients."})
    log: str = attrs.field(default="", metadata={"help": "File that gets a line of JSON for each event; empty: none."})


@attrs.frozen(kw_only=True)
class Key:
    """One client, as the file has it."""

    sha256: str = attrs.field(validator=attrs.validators.matches_re("[0-9a-f]{64}"))
    tenant: str = attrs.field(validator=[attrs.validators.instance_of(str), attrs.validators.min_len(1)])
    roles: tuple[str, ...] = attrs.field(default=("user",), converter=tuple)
    models: tuple[str, ...] = attrs.field(default=("*",), converter=tuple)
    tasks: tuple[str, ...] = attrs.field(default=("*",), converter=tuple)
    tokens_per_hour: int | None = attrs.field(default=None, validator=attrs.validators.optional(attrs.validators.ge(1)))


class Reserved:
    """Tokens of one request. What was used counts for an hour from now; what was not is free again."""

    def __init__(self, account, tokens):
        self._account = account
        self._tokens = tokens
        self._open = True

    def settle(self, tokens):
        self._end(tokens)

    def release(self):
        self._end(0)

    def _end(self, used):
        with self._account.lock:
            if self._open:
                self._open = False
                self._account.reserved -= self._tokens
                self._account.used.append((time.monotonic(), used))


class Account:
    """The tokens of one client."""

    def __init__(self, limit):
        self.limit = limit
        self.lock = threading.Lock()
        self.reserved = 0
        self.used = []

    def reserve(self, tokens):
        now = time.monotonic()
        with self.lock:
            self.used = [(when, count) for when, count in self.used if count and when > now - HOUR]
            held = self.reserved + sum(count for _, count in self.used)
            if self.limit is not None and held + tokens > self.limit:
                oldest = self.used[0][0] if self.used else now
                raise QuotaExceeded(
                    f"This key may use {self.limit} tokens an hour, and {held} are used or reserved; the request asks for {tokens}.",
                    max(1.0, oldest + HOUR - now),
                )
            self.reserved += tokens
        return Reserved(self, tokens)


class FileAccess:
    """Who the file says a client is."""

    def __init__(self, keys, log=None):
        self._keys = keys
        self._accounts = {name: Account(key.tokens_per_hour) for name, key in keys.items()}
        self._log = log
        self._writing = threading.Lock()

    def authenticate(self, credentials):
        digest = hashlib.sha256(credentials.secret.encode("utf-8", "surrogatepass")).hexdigest()
        # Every key is compared, each in constant time: the time tells nothing of which one was nearly right.
        found = [name for name, key in self._keys.items() if hmac.compare_digest(key.sha256, digest)]
        if not found:
            raise NotAuthenticated("The key is not known; ask the administrator of this server for one.")
        key = self._keys[found[0]]
        return Principal(name=found[0], tenant=key.tenant, roles=frozenset(key.roles))

    def allows(self, principal, permission, resource):
        key = self._keys.get(principal.name)
        kind, _, name = resource.partition(":")
        if key is None:
            return False
        if permission == "use" and kind in ("model", "task") and name:
            allowed = key.models if kind == "model" else key.tasks
            return "*" in allowed or name in allowed
        if resource != "server":
            return False
        return bool(set(key.roles) & {"inspect": {"operator", "admin"}, "administer": {"admin"}}.get(permission, set()))

    def reserve(self, principal, tokens):
        return self._accounts[principal.name].reserve(tokens)

    def audit(self, event):
        if self._log is None:
            return
        line = json.dumps(attrs.asdict(event), default=str) + "\n"
        with self._writing, self._log.open("a", encoding="utf-8") as file:
            file.write(line)


def read_keys(path):
    """The clients of a file. Raises ``ConfigError`` where it cannot be read, or one of its tables is no client."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8")).get("keys", {})
        return {name: Key(**table) for name, table in tables.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"The file of keys {path} cannot be used ({error}); its tables are [keys.NAME] with sha256 and tenant."
        ) from error


@hookimpl
def llmasos_component():
    return Component(summary="Clients and their keys in a TOML file.", options=Options)


@hookimpl
def llmasos_create_access(options, context):
    return FileAccess(read_keys(Path(options.file)), Path(options.log) if options.log else None)
