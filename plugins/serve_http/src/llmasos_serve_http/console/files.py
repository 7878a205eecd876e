"""The page's own files."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Mapping
from importlib.resources import files
from typing import Final

import attrs
from starlette.routing import BaseRoute, Route

from llmasos_serve_http.call import Call
from llmasos_serve_http.dialect import OpenAIDialect
from llmasos_serve_http.failures import refused
from llmasos_serve_http.operation import Operation
from llmasos_serve_http.routes import Guarded, Service

_TYPES: Final[Mapping[str, str]] = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
}
#: The page loads nothing but its own files and asks nobody but its own server; it has no script and no style in its HTML, and stands in no
#: frame of another page.
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = (
    ("content-security-policy", _POLICY),
    ("cache-control", "no-cache"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
)
_INDEX: Final = Operation(answer={"type": "string"}, media_type="text/html")
_FILE: Final = Operation(answer={"type": "string"}, media_type="*/*")


@attrs.frozen
class File:
    """A file of the page; ``tag`` changes with its content."""

    content: bytes
    media_type: str
    tag: str


class Files:
    """Serves the page's files, which are read once a process."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._files = _read()

    def routes(self) -> Iterator[BaseRoute]:
        """Public: the page holds nothing, and asks for a key where one is needed."""
        for path, handle, operation in (("/", self.index, _INDEX), ("/console/{name}", self.file, _FILE)):
            yield Route(path, Guarded(self._service, "public", OpenAIDialect(), handle, operation=operation), methods=["GET"])

    async def index(self, call: Call) -> None:
        """The page."""
        await self._reply(call, self._files["index.html"])

    async def file(self, call: Call) -> None:
        """A file of the page."""
        found = self._files.get(call.path["name"])
        if found is None:
            raise refused(404, f"The page has no file {call.path['name'][:200]!r}.", "not_found")
        await self._reply(call, found)

    @staticmethod
    async def _reply(call: Call, file: File) -> None:
        headers = [*_HEADERS, ("etag", file.tag)]
        if call.headers.get("if-none-match") == file.tag:
            await call.reply_bytes(b"", file.media_type, 304, headers)
        else:
            await call.reply_bytes(file.content, file.media_type, headers=headers)


@functools.cache
def _read() -> Mapping[str, File]:
    read: dict[str, File] = {}
    for entry in files(__package__).joinpath("page").iterdir():
        content = entry.read_bytes()
        tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        read[entry.name] = File(content, _TYPES[entry.name.rpartition(".")[2]], tag)
    return read
