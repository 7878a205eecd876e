"""Frames over a connected socket: whole, in the order in which they were sent, in both directions."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from typing import Final

#: What a frame is: a message of either side; a sign of life; how the entry ended, after which only signs of life come.
MESSAGE, BEAT, END = range(3)
#: Before each content: what the frame is, and the content's length in bytes.
_HEADER: Final = struct.Struct("!BQ")
#: Bytes that are asked of the system at once.
_CHUNK: Final = 64 << 10


class Frames:
    """The frames of a connected socket, which it owns.

    One thread receives, any number send. Sending waits while the connection is full, so that what is under way is bounded by the system's
    buffers.
    """

    def __init__(self, connection: socket.socket, silence: float | None = None) -> None:
        """``connection`` waits without a timeout of its own. ``silence``: seconds that ``receive`` waits for a byte; None: for ever."""
        if silence is not None:
            # By the system, since a timeout of Python's would also end a send that waits for its turn.
            seconds, rest = divmod(max(1, round(silence * 1e6)), 10**6)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", seconds, rest))
        self._socket: Final = connection
        self._sending = threading.Lock()
        self._kept = bytearray()

    def send(self, kind: int, content: bytes = b"") -> None:
        """Send a frame. Raises ``OSError`` where the connection is closed; a frame that is cut off closes it, so that none follows."""
        frame = _HEADER.pack(kind, len(content)) + content
        with self._sending:
            try:
                self._socket.sendall(frame)
            except BaseException:
                self.shut()
                raise

    def receive(self) -> tuple[int, bytes]:
        """What the next frame is, and its content.

        Raises:
            EOFError: either side closed the connection, perhaps within a frame.
            TimeoutError: nothing came for ``silence`` seconds.
            OSError: the connection broke.
        """
        kind, length = _HEADER.unpack(self._taken(_HEADER.size))
        return kind, self._taken(length)

    def shut(self) -> None:
        """Close the connection for both sides; those who wait in ``send`` or ``receive`` return. From any thread."""
        with contextlib.suppress(OSError):  # it is closed
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection and give back the socket; from the thread that receives."""
        self.shut()
        with self._sending:
            self._socket.close()

    def _taken(self, count: int) -> bytes:
        """The next ``count`` bytes; what came after them is kept."""
        while len(self._kept) < count:
            try:
                part = self._socket.recv(_CHUNK)
            except BlockingIOError:  # how the system tells that the time is over
                raise TimeoutError from None
            if not part:
                raise EOFError("it was closed")
            self._kept += part
        taken = bytes(self._kept[:count])
        del self._kept[:count]
        return taken
