"""Operations of an API that an OpenAPI document describes (https://spec.openapis.org/oas/v3.1.0)."""

from __future__ import annotations

import fnmatch
import functools
import json
import threading
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from llmasos_app_assistant.options import OpenApiOptions
from llmasos_app_assistant.tools.addresses import check_network, secrets_of
from llmasos_app_assistant.tools.signature import as_text
from llmasos_app_assistant.tools.tool import Scope, Tool, ToolError, tool_name
from llmasos_hookspecs import ConfigError, LLMasOSError

#: Bytes of a document, and of an answer; what is longer is cut.
_DOCUMENT: Final = 8 << 20
_ANSWER: Final = 1 << 20
_METHODS: Final = ("get", "put", "post", "delete", "patch", "head")
_SAFE: Final = ("get", "head")
#: References within references that are followed.
_DEEPEST: Final = 32
_SECONDS: Final = 30.0
_JSON: Final = "application/json"


@attrs.frozen(kw_only=True)
class Operation:
    """One operation.

    Attributes:
        method, path: of its requests.
        places: of each parameter: ``path``, ``query`` or ``header``.
        body: name of the argument that is the body; empty: it has none.
    """

    method: str
    path: str
    places: Mapping[str, str]
    body: str = ""


class OpenApiTools:
    """The operations of one API. Its document is read once; redirects are not followed, and nothing but the API's own address is asked."""

    def __init__(self, name: str, options: OpenApiOptions, *, offline: bool = False) -> None:
        """``name``: what the tools' names begin with. Raises ``ConfigError`` where the library is missing, or an address is refused."""
        try:
            import httpx  # noqa: F401 - whether it is there is told before anything is asked
        except ImportError as error:
            raise ConfigError('OpenAPI documents need the library httpx; run pip install "llmasos-app-assistant[openapi]".') from error
        self._name = name
        self._options = options
        self._offline = offline
        self._lock = threading.Lock()
        self._found: Sequence[Tool] | None = None
        for address, option in ((options.document if _is_address(options.document) else "", "document"), (options.base_url, "base_url")):
            if address:
                check_network(address, f"openapi.{name}.{option}", offline=offline)

    def tools(self) -> Sequence[Tool]:
        """Raises ``LLMasOSError`` where the document cannot be read, or describes no API."""
        with self._lock:
            if self._found is None:
                document = self._document()
                try:
                    self._found = list(self._tools(document, self._base(document)))
                except (AttributeError, TypeError, KeyError, IndexError) as error:
                    where = self._options.document
                    raise LLMasOSError(f"The OpenAPI document {where} has not the form of one ({error}).") from error
            return self._found

    def close(self) -> None:
        """It holds nothing."""

    def _document(self) -> Mapping[str, Any]:
        where = self._options.document
        try:
            content = _fetched(where, secrets_of(self._options.headers)) if _is_address(where) else _read(Path(where).expanduser())
            document = _parsed(content, where)
        except (OSError, ValueError, RecursionError) as error:
            raise LLMasOSError(f"The OpenAPI document {where} cannot be read ({error}).") from error
        if not isinstance(document, Mapping) or not str(document.get("openapi", "")).startswith("3.") or "paths" not in document:
            raise LLMasOSError(f"{where} is no OpenAPI document of version 3.")
        return document

    def _base(self, document: Mapping[str, Any]) -> str:
        """Where the API is. A document that was fetched may not send requests, and the headers with them, elsewhere."""
        if self._options.base_url:
            return self._options.base_url.rstrip("/")
        where = self._options.document
        servers = document.get("servers") or [{"url": "/"}]
        url = str(servers[0].get("url", "/"))
        if _is_address(where):
            url = urllib.parse.urljoin(where, url)
            if urllib.parse.urlsplit(url)[:2] != urllib.parse.urlsplit(where)[:2]:
                raise LLMasOSError(f"The document {where} says that the API is at {url}; set base_url where that is meant.")
        try:
            check_network(url, f"openapi.{self._name}.base_url", offline=self._offline)
        except ConfigError as error:
            raise LLMasOSError(f"{error} The document {where} says so; set base_url.") from error
        return url.rstrip("/")

    def _tools(self, document: Mapping[str, Any], base: str) -> Iterator[Tool]:
        for path, item in document["paths"].items():
            for method in _METHODS:
                operation = item.get(method) if isinstance(item, Mapping) else None
                if not isinstance(operation, Mapping):
                    continue
                name = str(operation.get("operationId") or f"{method}_{path}")
                if not _matches(name, self._options.operations):
                    continue
                schema, found = _described(
                    document, method, path, [*item.get("parameters", ()), *operation.get("parameters", ())], operation
                )
                yield Tool(
                    name=tool_name(self._name, name),
                    description=str(operation.get("summary") or operation.get("description") or f"{method.upper()} {path}"),
                    parameters=schema,
                    run=functools.partial(self._call, base, found),
                    repeatable=method in _SAFE or _matches(name, self._options.repeatable),
                )

    def _call(self, base: str, operation: Operation, arguments: Mapping[str, Any], scope: Scope) -> str:
        import httpx

        path, query, headers = operation.path, {}, {}
        for name, place in operation.places.items():
            if name not in arguments:
                continue
            value = arguments[name]
            if place == "path":
                text = urllib.parse.quote(_plain(value), safe="")
                if text in ("", ".", ".."):
                    raise ToolError(f"{name} is {value!r}, which is no part of a path.")
                path = path.replace(f"{{{name}}}", text)
            elif place == "query":
                query[name] = [_plain(each) for each in value] if isinstance(value, list) else _plain(value)
            else:
                headers[name] = _plain(value)
        if "{" in path:
            raise ToolError(f"The call leaves out a part of the path {operation.path}.")
        more: dict[str, Any] = {"json": arguments[operation.body]} if operation.body in arguments else {}
        headers |= secrets_of(self._options.headers)  # these are the user's, and no argument replaces them
        try:
            with (
                httpx.Client(timeout=scope.seconds, follow_redirects=False) as client,
                client.stream(operation.method.upper(), f"{base}{path}", params=query, headers=headers, **more) as answer,
            ):
                content = bytearray()
                for piece in answer.iter_bytes():
                    content += piece
                    if len(content) > _ANSWER or scope.ended.is_set():
                        break
                text = bytes(content[:_ANSWER]).decode(answer.charset_encoding or "utf-8", "replace")
                if not answer.is_success:
                    raise ToolError(f"The API answered with status {answer.status_code}: {text[:1000]}")
                return text or f"The API answered with status {answer.status_code}."
        except (httpx.HTTPError, httpx.InvalidURL, LookupError) as error:
            raise ToolError(f"The API cannot be reached ({error or type(error).__name__}).") from error


def _described(
    document: Mapping[str, Any], method: str, path: str, parameters: Sequence[Any], operation: Mapping[str, Any]
) -> tuple[dict[str, Any], Operation]:
    """The schema of an operation's arguments, and where each goes. A parameter of the operation replaces the path's of its name."""
    properties: dict[str, Any] = {}
    places: dict[str, str] = {}
    required: list[str] = []
    for parameter in (_resolved(document, each) for each in parameters):
        name, place = parameter.get("name"), parameter.get("in")
        if not isinstance(name, str) or place not in ("path", "query", "header"):
            continue
        schema = _resolved(document, parameter.get("schema", {}))
        properties[name] = {**schema, **({"description": parameter["description"]} if "description" in parameter else {})}
        places[name] = place
        if (parameter.get("required") or place == "path") and name not in required:
            required.append(name)
    body = _resolved(document, operation.get("requestBody", {}))
    content = body.get("content", {}).get(_JSON)
    named = ""
    if isinstance(content, Mapping):
        named = "body" if "body" not in properties else "request_body"
        properties[named] = _resolved(document, content.get("schema", {}))
        if body.get("required"):
            required.append(named)
    schema = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    return schema, Operation(method=method, path=path, places=places, body=named)


def _resolved(document: Mapping[str, Any], value: Any, depth: int = 0) -> Any:
    """A value with what its references within the document mean; one that refers to itself is left open where that begins anew."""
    if depth > _DEEPEST:
        return {}
    if isinstance(value, Mapping):
        if isinstance(reference := value.get("$ref"), str):
            if not reference.startswith("#/"):
                raise LLMasOSError(f"The OpenAPI document refers to {reference}, and it may refer to its own parts alone.")
            found: Any = document
            for part in reference[2:].split("/"):
                found = found.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(found, Mapping) else None
            if found is None:
                raise LLMasOSError(f"The OpenAPI document refers to {reference}, which is not there.")
            return _resolved(document, found, depth + 8)
        return {key: _resolved(document, each, depth + 1) for key, each in value.items() if key not in ("example", "examples", "xml")}
    return [_resolved(document, each, depth + 1) for each in value] if isinstance(value, list) else value


def _fetched(url: str, headers: Mapping[str, str]) -> bytes:
    import httpx

    try:
        with httpx.Client(timeout=_SECONDS) as client, client.stream("GET", url, headers=dict(headers)) as answer:
            answer.raise_for_status()
            content = bytearray()
            for piece in answer.iter_bytes():
                content += piece
                if len(content) > _DOCUMENT:
                    raise ValueError(f"it has more than {_DOCUMENT} bytes")
            return bytes(content)
    except httpx.HTTPError as error:
        raise ValueError(str(error) or type(error).__name__) from error


def _read(path: Path) -> bytes:
    with path.open("rb") as stream:
        content = stream.read(_DOCUMENT + 1)
    if len(content) > _DOCUMENT:
        raise ValueError(f"it has more than {_DOCUMENT} bytes")
    return content


def _parsed(content: bytes, where: str) -> Any:
    if not where.lower().endswith((".yaml", ".yml")):
        return json.loads(content)
    try:
        import yaml
    except ImportError as error:
        raise ValueError("a document in YAML needs the library PyYAML; pip install pyyaml, or give it in JSON") from error
    try:
        return yaml.safe_load(content)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error


def _plain(value: Any) -> str:
    """A value in an address."""
    return value if isinstance(value, str) else as_text(value)


def _is_address(text: str) -> bool:
    return text.startswith(("http://", "https://"))


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
