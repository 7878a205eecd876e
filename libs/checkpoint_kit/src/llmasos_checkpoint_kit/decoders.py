"""Reads an untrusted config as a decoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmasos_hookspecs import CheckpointError, DecoderConfig


def read_decoder(config: Mapping[str, Any], where: str) -> DecoderConfig:
    """``DecoderConfig.from_dict``, with the file named where a value is of a type that no config has.

    Raises:
        UnsupportedModel: the config is of another architecture.
        CheckpointError: a value is missing or impossible.
    """
    try:
        return DecoderConfig.from_dict(config)
    except CheckpointError:
        raise
    except (TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise CheckpointError(f"{where} holds a value of the wrong kind ({str(error)[:80]}); get the checkpoint again.") from error
