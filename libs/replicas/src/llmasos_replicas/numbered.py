"""Numbers on the messages between a replica and its parent, so that neither relies on the placement for order and completeness."""

from __future__ import annotations

from typing import Final

from llmasos_replicas.wire import WireError

_BYTES: Final = 8


def numbered(number: int, data: bytes) -> bytes:
    """A message as it is sent: the ``number`` of those before it, then itself."""
    return number.to_bytes(_BYTES, "big") + data


class Arrivals:
    """The messages that came from one side.

    Attributes:
        count: how many there were; each counts once.
    """

    def __init__(self) -> None:
        self.count = 0

    def take(self, data: bytes) -> bytes | None:
        """The message in ``data``; None where it came before. Raises ``WireError`` where one before it is missing."""
        number = int.from_bytes(data[:_BYTES], "big")
        if len(data) < _BYTES or number > self.count:
            raise WireError(f"Message {self.count} is lost or late; number {number} came in its place.")
        if number < self.count:
            return None
        self.count += 1
        return data[_BYTES:]


class Received:
    """What the other side has received of the messages that were sent to it, as it says again and again."""

    def __init__(self, patience: int) -> None:
        """``patience``: how often it may say the same while it should have received more."""
        self._patience = patience
        self._said = 0
        self._due = 0
        self._behind = 0

    def said(self, received: int, sent: int) -> None:
        """The other side says that it ``received`` so many messages; ``sent`` were sent until now. What was sent since it last said
        something may still be under way. Raises ``WireError`` where a message is lost."""
        self._behind = self._behind + 1 if received < self._due and received == self._said else 0
        self._said, self._due = received, sent
        if self._behind > self._patience:
            raise WireError(f"Message {received} of {sent} did not arrive.")
