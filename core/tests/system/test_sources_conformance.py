"""Core's own source passes the conformance kit."""

from __future__ import annotations

from pathlib import Path

from llmasos_hookspecs.testing import SourceConformance, tiny_checkpoint


class TestPath(SourceConformance):
    module = "llmasos.system.sources.path"
    paths = True
    unknown = ("file:no-such-thing-4711", "./no-such-folder", "/no/such/model.gguf", "file:no such/name at all")

    def make_reference(self, folder: Path) -> str:
        tiny_checkpoint("llama", folder=folder)
        return str(folder)
