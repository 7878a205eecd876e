"""What a source fetches is kept once, and fetched only where the network may be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmasos_fetch_kit.keeping import keep_fetched
from llmasos_hookspecs import SourceError
from llmasos_hookspecs.testing import SandboxContext


def fetched(folder: Path) -> tuple[str, str]:
    (folder / "model.gguf").write_bytes(b"GGUF")
    return "x:model@1", "MIT"


def refused(folder: Path) -> tuple[str, str]:
    raise AssertionError("fetched again")


def test_what_was_fetched_is_found_from_then_on(tmp_path):
    context = SandboxContext(root=tmp_path, offline=False)
    path = keep_fetched(context, "x:model", fetched)
    assert [each.name for each in path.iterdir()] == ["model.gguf"]
    assert keep_fetched(context, "x:model", refused) == path


def test_offline_only_what_is_stored_is_found(tmp_path):
    context = SandboxContext(root=tmp_path, offline=True)
    with pytest.raises(SourceError, match=r"^x:model is not in the model store, .* offline; run llmasos models pull x:model first\.$"):
        keep_fetched(context, "x:model", refused)
    context.offline = False
    path = keep_fetched(context, "x:model", fetched)
    context.offline = True
    assert keep_fetched(context, "x:model", refused) == path


def test_who_waits_for_another_process_is_told(tmp_path):
    context = SandboxContext(root=tmp_path, offline=False)

    class Busy:
        """A store whose entries another process is filling."""

        def find(self, key):
            return None

        def fetch(self, key, fill, *, waiting=None):
            waiting()
            return tmp_path

    context._store = Busy()
    assert keep_fetched(context, "x:model", refused) == tmp_path
    assert context.notes == ["Another process is fetching x:model; waiting for it."]
