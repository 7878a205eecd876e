"""Parts of chat messages that are images."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

import attrs

from llmasos_hookspecs import Media, RequestError

if TYPE_CHECKING:
    from llmasos_hookspecs import Prompt

P = TypeVar("P", bound="Prompt")


@attrs.frozen(eq=False)
class GivenImage:
    """An image of a message, which is read where it is known that the model reads images. What walks through the texts of a message does
    not look into it.

    Attributes:
        where: what errors call it.
        given: as ``read_pixels`` takes it, or media that were read before.
    """

    where: str
    given: Any = attrs.field(repr=False)
    _read: list[Media] = attrs.field(factory=list, init=False, repr=False)

    @classmethod
    def of_file(cls, path: os.PathLike[Any]) -> GivenImage:
        """The image of a file, whose bytes are read now. Raises ``RequestError`` as ``read_file`` does."""
        from llmasos_image_input.reading import read_file

        return cls(f"The image {os.fspath(path)}", read_file(path))

    def read(self) -> Media:
        """Its pixels as media, which are read once. Raises ``RequestError`` as ``read_pixels`` does."""
        from llmasos_image_input.reading import IMAGE, read_media  # here, because messages without images need no numpy

        if isinstance(self.given, Media):
            if self.given.kind != IMAGE:
                raise RequestError(f"{self.where} is media of the kind {self.given.kind!r}; give an image.")
            return self.given
        if not self._read:
            self._read.append(read_media(self.given, self.where))
        return self._read[0]


def deferred(prompt: P) -> P:
    """Chat messages whose images are ``GivenImage``, each in a part ``image``; anything else as it is.

    Raises ``RequestError`` where an image part holds nothing.
    """
    if isinstance(prompt, str) or not isinstance(prompt, Sequence) or not any(map(_has_images, prompt)):
        return prompt
    messages: Sequence[Any] = prompt
    return cast("P", [_deferred(place, each) if _has_images(each) else each for place, each in enumerate(messages)])


def has_images(prompt: Any) -> bool:
    """Whether chat messages hold an image."""
    return not isinstance(prompt, str) and isinstance(prompt, Sequence) and any(map(_has_images, prompt))


def message_of(text: str, images: Sequence[Any]) -> dict[str, Any]:
    """A message of the user: images, and a text after them."""
    if not images:
        return {"role": "user", "content": text}
    return {"role": "user", "content": [*({"type": "image", "image": each} for each in images), {"type": "text", "text": text}]}


def _has_images(message: Any) -> bool:
    content = message.get("content") if isinstance(message, Mapping) else None
    return isinstance(content, Sequence) and not isinstance(content, str) and any(map(is_image, content))


def _deferred(place: int, message: Mapping[str, Any]) -> dict[str, Any]:
    where = f"The image of chat message {place}"
    return {**message, "content": [_part(part, where) if is_image(part) else part for part in message["content"]]}


def _part(part: Mapping[str, Any], where: str) -> dict[str, Any]:
    found = image_of(part, where)
    return {"type": "image", "image": found if isinstance(found, GivenImage) else GivenImage(where, found)}


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
