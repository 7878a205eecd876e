"""The result of an export. What a format reads is a ``Checkpoint``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs


@attrs.frozen(kw_only=True)
class Exported:
    """What ``llmasos_export`` wrote; core knows where it is and how large.

    Attributes:
        facts: plain data about the file, for ``llmasos models export --json``: types of tensors, an architecture's name.
        notes: what the user should know (a tokenizer that the format cannot hold, say), one sentence each.
    """

    facts: Mapping[str, Any] = attrs.field(factory=dict)
    notes: tuple[str, ...] = ()
