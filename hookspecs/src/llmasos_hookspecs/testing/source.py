"""Conformance tests of model sources."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Final

import pytest

from llmasos_hookspecs.errors import SourceError
from llmasos_hookspecs.testing.plugin import PluginConformance
from llmasos_hookspecs.testing.sandbox import PluginSandbox, SandboxContext

#: References that belong to some source; those of the source's own schemes are left out.
FOREIGN: Final = (
    "hf:org/name",
    "pypi:dist==1.0",
    "path:no/such/folder",
    "ftp:somewhere",
    "x-unknown:thing",
    "s3:bucket/key",
    "http://127.0.0.1/x",
)


class SourceConformance(PluginConformance, standard=True):
    """Subclass it, name the plugin, and pytest proves its source::

        class TestConformance(SourceConformance):
            module = "llmasos_source_mine"

            def make_reference(self, folder):
                return f"mine:{folder}"

    Attributes:
        unknown: references of the source's own schemes that do not exist; empty: some are made from its schemes.
        paths: its references are paths of this machine, which may point to any folder.
    """

    kind = "source"
    unknown: ClassVar[tuple[str, ...]] = ()
    paths: ClassVar[bool] = False

    def make_reference(self, folder: Path) -> str | None:
        """A reference that can be fetched without a network, set up in ``folder``; None where there is none."""
        return None

    def fetch(self, sandbox: PluginSandbox, ref: str, context: SandboxContext) -> Path | None:
        """The source's result for ``ref``."""
        found = sandbox.call("llmasos_fetch", ref=ref, options=self.plugin_options(sandbox), context=context)
        assert found is None or isinstance(found, Path), f"llmasos_fetch returned {found!r}; return a Path or None."
        return found

    @pytest.fixture(autouse=True)
    def _no_network(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        """Refuse every connection, and fail where one was attempted, even if the source caught the error."""
        tried: list[Any] = []

        def refuse(_self: socket.socket, address: Any) -> None:
            tried.append(address)
            raise ConnectionRefusedError("The conformance tests have no network.")

        monkeypatch.setattr(socket.socket, "connect", refuse)
        yield
        assert not tried, f"The source connected to {tried[0]!r} although context.offline is true."

    def test_schemes_are_plain(self, sandbox: PluginSandbox) -> None:
        """Schemes are words without a colon."""
        for scheme in sandbox.component.schemes:
            assert scheme, "A scheme is empty."
            assert scheme == scheme.strip(": /").lower(), f"The scheme {scheme!r} must be a lower-case word without a colon."

    @pytest.mark.parametrize("ref", FOREIGN)
    def test_leaves_foreign_references_alone(self, sandbox: PluginSandbox, context: SandboxContext, ref: str) -> None:
        """A reference of another source gives None, never an error."""
        if ref.partition(":")[0] in sandbox.component.schemes:
            pytest.skip("The reference is the source's own.")
        assert self.fetch(sandbox, ref, context) is None, f"The source answered {ref!r}, which is not its own."

    def test_unknown_references_are_refused(self, sandbox: PluginSandbox, context: SandboxContext) -> None:
        """A reference of its own that does not exist is a ``SourceError`` or None, without a network."""
        made = [f"{s}:{rest}" for s in sandbox.component.schemes for rest in ("", "no-such-thing-4711", "../../etc", "no such/name at all")]
        for ref in self.unknown or made:
            found = None
            with contextlib.suppress(SourceError):
                found = self.fetch(sandbox, ref, context)
            assert found is None, f"{ref!r} led to {found}, and it should lead nowhere."

    def test_stays_in_its_place(
        self, sandbox: PluginSandbox, context: SandboxContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A reference with ``..`` in it cannot reach a folder outside those of the source's models."""
        if self.paths:
            pytest.skip("The source's references are paths.")
        place = tmp_path / "a" / "b" / "place"
        place.mkdir(parents=True)
        monkeypatch.chdir(place)
        decoys = [folder / "decoy" for folder in (tmp_path, tmp_path / "a", tmp_path / "a" / "b", place, context.cache, context.store.root)]
        for decoy in decoys:
            decoy.mkdir(parents=True, exist_ok=True)
            (decoy / "config.json").write_text("{}")
        made = self.make_reference(tmp_path / "origin")
        starts = [f"{scheme}:" for scheme in sandbox.component.schemes] + ([f"{made}/"] if made else [])
        for ref in (f"{start}{way}decoy" for start in starts for way in ("../", "../../", "../../../", "x/../../", "./../")):
            found = None
            with contextlib.suppress(SourceError):
                found = self.fetch(sandbox, ref, context)
            ours = found is None or any(found.resolve().is_relative_to(home.resolve()) for home in (context.store.root, context.cache))
            assert ours, f"{ref!r} led out of the source's place, to {found}; refuse references with .. in them."
            assert found is None or found.resolve() not in decoys, f"{ref!r} led to {found}, which is none of its models."

    def test_fetching_twice_gives_the_same(self, sandbox: PluginSandbox, context: SandboxContext, tmp_path: Path) -> None:
        """The second fetch of a reference gives the same path, and fetches nothing again."""
        ref = self.make_reference(tmp_path / "origin")
        if ref is None:
            pytest.skip("make_reference gives no reference that needs no network.")
        first = self.fetch(sandbox, ref, context)
        assert first is not None, f"The source does not answer its own reference {ref!r}."
        assert first.exists(), f"{ref!r} led to {first}, which is not there."
        fills = context.store.fills
        assert self.fetch(sandbox, ref, context) == first, "A second fetch led elsewhere."
        assert context.store.fills == fills, "A second fetch filled the store again; look with context.store.find first."
