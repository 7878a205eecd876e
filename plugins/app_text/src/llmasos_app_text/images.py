"""The images that tasks are given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmasos_image_input.parts import GivenImage


def given_images(images: Sequence[Any]) -> list[GivenImage]:
    """Images that are read once, however often a prompt with them is counted before it is asked."""
    return [GivenImage("The image" if len(images) == 1 else f"Image {number}", each) for number, each in enumerate(images, 1)]
