"""The access control passes the conformance kit, and a file that is wrong is one sentence."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import access_file
import pytest

from llmasos_hookspecs import AuditEvent, ConfigError, Credentials
from llmasos_hookspecs.testing import AccessConformance

KEYS = {"reader": "kit-Reader-key-1", "small": "kit-Small-key-2", "boss": "kit-Boss-key-3"}
FILE = """
[keys.reader]
sha256 = "{reader}"
tenant = "library"

[keys.small]
sha256 = "{small}"
tenant = "library"
models = ["default"]
tokens_per_hour = 100

[keys.boss]
sha256 = "{boss}"
tenant = "office"
roles = ["admin"]
"""


def credentials(name: str) -> Credentials:
    return Credentials(scheme="bearer", secret=KEYS[name])


def write(folder: Path) -> Path:
    path = folder / "keys.toml"
    path.write_text(FILE.format(**{name: hashlib.sha256(key.encode()).hexdigest() for name, key in KEYS.items()}), encoding="utf-8")
    return path


class TestConformance(AccessConformance):
    module = "access_file"
    known = credentials("reader")
    limited = credentials("small")
    limit = 100

    @classmethod
    def set_up(cls, folder: Path) -> dict[str, str]:
        return {"file": str(write(folder)), "log": str(folder / "audit.jsonl")}


def test_roles_and_lists_decide(tmp_path: Path) -> None:
    """A key that names its models may use no other; an administrator may switch the scheduler, a reader may not."""
    access = access_file.FileAccess(access_file.read_keys(write(tmp_path)))
    small, boss, reader = (access.authenticate(credentials(name)) for name in ("small", "boss", "reader"))
    assert access.allows(small, "use", "model:default")
    assert not access.allows(small, "use", "model:big")
    assert access.allows(boss, "administer", "server")
    assert access.allows(boss, "inspect", "server")
    assert not access.allows(reader, "administer", "server")
    assert (boss.tenant, reader.tenant) == ("office", "library")


def test_events_are_lines_of_json(tmp_path: Path) -> None:
    """Each event is one line."""
    access = access_file.FileAccess({}, tmp_path / "audit.jsonl")
    access.audit(AuditEvent(time=1.0, principal="k", tenant="t", action="generate", resource="model:m", outcome="done"))
    access.audit(AuditEvent(time=2.0, principal="", tenant="", action="authenticate", resource="server", outcome="denied"))
    lines = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(line["time"], line["outcome"]) for line in lines] == [(1.0, "done"), (2.0, "denied")]


@pytest.mark.parametrize(
    "text", ["keys = 3", "[keys.x]\nsha256 = 'short'\ntenant = 't'", "[keys.x]\ntenant = 't'", "[keys.x]\nsecret = 'x'", "= ="]
)
def test_a_wrong_file_is_one_sentence(tmp_path: Path, text: str) -> None:
    """It names the file; a missing one too."""
    path = tmp_path / "keys.toml"
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"keys\.toml cannot be used"):
            access_file.read_keys(path)
        path.write_text(text, encoding="utf-8")
