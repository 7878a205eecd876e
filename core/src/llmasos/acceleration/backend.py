"""The loader that measurements run on."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from llmasos_hookspecs import Checkpoint, Engine


@attrs.frozen(kw_only=True)
class Backend:
    """The loader that measurements run on.

    Attributes:
        label: the loader with its distribution, version and options, for reports and cache keys.
        load: makes an engine of a checkpoint.
        load_reference: makes the reference engine from a float32 checkpoint, without loader options that round weights.
        context_length: tokens that a sequence may have on it; None: as many as the model's own context.
    """

    label: str
    load: Callable[[Checkpoint], Engine]
    load_reference: Callable[[Checkpoint], Engine]
    context_length: int | None = None
