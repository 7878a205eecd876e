"""Images of chat messages at their places among the tokens of a prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import attrs

from llmasos.compose.sources import place
from llmasos_chat_templates.messages import checked_messages, images_of
from llmasos_hookspecs import EngineInfo, Media, PlacedMedia, Prompt, RequestError
from llmasos_image_input.parts import GivenImage, has_images

#: The kind of media that images are.
IMAGE: Final = "image"
#: Pixels of all images of a prompt together: a small file may hold very many, and all of them are in memory until the answer ends.
MOST_PIXELS: Final = 100_000_000


@attrs.frozen
class EncodedPrompt:
    """A prompt as an engine gets it.

    Attributes:
        tokens: with the virtual tokens of media.
        text: the same with one token of the vocabulary for each of the media, as the chat template writes it.
        media: at their places in ``tokens``.
        source: what the tokens are the beginning of a target of; None: an encoder-decoder reads the tokens themselves.
    """

    tokens: list[int]
    text: list[int]
    media: tuple[PlacedMedia, ...] = ()
    source: Media | None = None


def images_in(prompt: Prompt, model: str, info: EngineInfo) -> list[GivenImage]:
    """The images of chat messages, in order, none of them read yet.

    Raises:
        RequestError: there are some, and the model reads text alone.
    """
    if not has_images(prompt):
        return []
    if IMAGE not in info.media_tokens:
        raise RequestError(f"The model {model} reads text alone, and the messages hold an image; leave it out, or ask a model that sees.")
    return images_of(checked_messages(prompt))


def with_images(text: Sequence[int], images: Sequence[GivenImage], info: EngineInfo, measure: Callable[[Media], int]) -> EncodedPrompt:
    """A prompt whose images stand where the chat template has written their token. ``measure``: the engine's ``media_length``.

    Raises:
        RequestError: an image cannot be read, they are too large together, or the template has written another number of them.
    """
    token = info.media_tokens[IMAGE]
    written = text.count(token)
    if written != len(images):
        raise RequestError(
            f"The messages hold {len(images)} images, and the model's chat template wrote {written}; give images in parts of their own, "
            "and no text that spells the token of images."
        )
    tokens: list[int] = []
    media: list[PlacedMedia] = []
    left, pixels = iter(images), 0
    for each in text:
        if each == token:
            image = next(left).read()
            pixels += image.data.shape[0] * image.data.shape[1]
            if pixels > MOST_PIXELS:
                raise RequestError(f"The images of a prompt may have {MOST_PIXELS} pixels together, and these have more; scale them down.")
            virtual, placed = place(image, len(tokens), info, measure)
            tokens += virtual
            media.append(placed)
        else:
            tokens.append(each)
    return EncodedPrompt(tokens, list(text), tuple(media))
