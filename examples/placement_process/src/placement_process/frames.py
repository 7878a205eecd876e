"""Messages on a stream of bytes: the length in eight bytes, then the message."""

from __future__ import annotations


def write_frame(stream, message: bytes) -> None:
    """Write one message. Raises ``OSError`` where nobody reads."""
    stream.write(len(message).to_bytes(8, "big") + message)
    stream.flush()


def read_frame(stream) -> bytes | None:
    """The next message; None at the end of the stream."""
    head = stream.read(8)
    if len(head) < 8:
        return None
    length = int.from_bytes(head, "big")
    message = stream.read(length)
    return message if len(message) == length else None
