"""Parts of chat messages that are images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmasos_hookspecs import RequestError


def is_image(part: Any) -> bool:
    """Whether a part of a message's content is an image: ``image``, or ``image_url`` as OpenAI has it."""
    return isinstance(part, Mapping) and part.get("type") in ("image", "image_url")


def image_of(part: Mapping[str, Any], where: str) -> Any:
    """What an image part holds, for ``read_pixels``: ``image`` of ``image``, or the URL of ``image_url``, plain or as ``{"url": ...}``.

    Raises ``RequestError`` where it holds nothing, or an ``image_url`` that is no text.
    """
    kind = part["type"]
    found = part.get(kind)
    if kind == "image_url":
        url = found.get("url") if isinstance(found, Mapping) else found
        if not isinstance(url, str):
            raise RequestError(f'{where} has an image_url without a text; give {{"url": "data:image/png;base64,..."}}.')
        return url
    if found is None:
        raise RequestError(f"{where} is a part of the type image without image; give an array, a Pillow image, bytes or a path.")
    return found
