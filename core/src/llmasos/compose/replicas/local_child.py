"""The child process of a seat of the placement ``local``."""

from __future__ import annotations

import os
import sys
import threading
from multiprocessing.connection import Connection

from llmasos_hookspecs import run_entry


def main() -> None:
    """Run the entry that the command line names, at the file descriptor and on the cores that it names (empty: all)."""
    descriptor, entry, cores = sys.argv[1:]
    if cores:
        os.sched_setaffinity(0, [int(core) for core in cores.split(",")])
    connection: Connection[bytes, bytes] = Connection(int(descriptor))
    sending = threading.Lock()

    def receive() -> bytes:
        try:
            return connection.recv_bytes()
        except OSError as error:
            raise EOFError from error

    def send(message: bytes) -> None:
        with sending:
            connection.send_bytes(message)

    run_entry(entry, receive, send)
    os._exit(0)  # the parent has ended or closed the connection, so that no caller waits for unfinished requests
