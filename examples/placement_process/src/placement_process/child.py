"""The subprocess of a seat."""

from __future__ import annotations

import os
import threading

from llmasos_hookspecs import run_entry
from placement_process.frames import read_frame, write_frame


def main(entry: str) -> None:
    """Run ``entry`` with messages from standard input and to standard output."""
    # What libraries print must not get between the frames: they get another standard output, and the frames keep the pipe.
    frames_in = os.fdopen(os.dup(0), "rb")
    frames_out = os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    writing = threading.Lock()

    def receive() -> bytes:
        message = read_frame(frames_in)
        if message is None:
            raise EOFError
        return message

    def send(message: bytes) -> None:
        with writing:
            write_frame(frames_out, message)

    run_entry(entry, receive, send)
