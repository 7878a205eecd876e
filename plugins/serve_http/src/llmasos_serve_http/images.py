"""Images of messages, in the one form that every dialect's become: OpenAI's ``image_url`` with a ``data:`` URL."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any, Final

from llmasos_hookspecs import RequestError
from llmasos_serve_http.fields import shown

#: First bytes of an image's file, and what follows them after four more -> its media type. None of these can hold a script.
_KINDS: Final = (
    (b"\x89PNG\r\n\x1a\n", b"", "image/png"),
    (b"\xff\xd8\xff", b"", "image/jpeg"),
    (b"RIFF", b"WEBP", "image/webp"),
    (b"GIF8", b"", "image/gif"),
)


def image_part(url: Any, where: str) -> dict[str, Any]:
    """The part of a message for an image. Raises ``RequestError`` for anything but a ``data:`` URL: nothing is fetched for a client."""
    if not isinstance(url, str) or not url[:5].lower() == "data:":
        raise RequestError(
            f"{where} has an image at {shown(url)}; send it in the request, as data:image/png;base64,... since nothing is fetched.", where
        )
    return {"type": "image_url", "image_url": {"url": url}}


def of_base64(data: Any, where: str, kind: str = "image/png") -> dict[str, Any]:
    """The part for an image in base64 alone; what it is, its first bytes tell. Raises ``RequestError`` where it is no text."""
    if not isinstance(data, str) or not data:
        raise RequestError(f"{where} has an image that is {shown(data)}, and it must be a text in base64.", where)
    return image_part(f"data:{kind};base64,{data}", where)


def with_images(text: str, images: Any, where: str) -> str | list[dict[str, Any]]:
    """A message's content with its images, in base64, before the text; the text alone where there are none."""
    if not images:
        return text
    if not isinstance(images, Sequence) or isinstance(images, str):
        raise RequestError(f"{where} is {shown(images)}, and it must be a list of images in base64.", where)
    return [*(of_base64(each, where) for each in images), *([{"type": "text", "text": text}] if text else [])]


def checked_urls(content: Any, where: str) -> Any:
    """A content of OpenAI's parts whose images are ``data:`` URLs. Raises ``RequestError`` where one is not."""
    if not isinstance(content, list):
        return content
    return [_checked(part, where) if isinstance(part, Mapping) and part.get("type") == "image_url" else part for part in content]


def _checked(part: Mapping[str, Any], where: str) -> dict[str, Any]:
    found = part.get("image_url")
    return image_part(found.get("url") if isinstance(found, Mapping) else found, where)


def file_of(url: Any, where: str) -> bytes:
    """The file in a ``data:`` URL. Raises ``RequestError`` where it is no PNG, JPEG, WebP or GIF."""
    head, _, data = url.partition(";base64,") if isinstance(url, str) else ("", "", "")
    try:
        found = base64.b64decode(data, validate=True) if head.startswith("data:image/") else b""
    except (binascii.Error, ValueError):
        found = b""
    if not _kind_of(found):
        raise RequestError(f"{where} has an image that is {shown(url)}; give a PNG, JPEG, WebP or GIF as data:image/png;base64,...", where)
    return found


def url_of(file: bytes) -> str:
    """The ``data:`` URL of an image's file."""
    return f"data:{_kind_of(file) or 'application/octet-stream'};base64,{base64.b64encode(file).decode()}"


def _kind_of(file: bytes) -> str:
    return next((kind for first, more, kind in _KINDS if file.startswith(first) and file.startswith(more, 8)), "")
