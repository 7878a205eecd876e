"""What the conformance tests of placements run in a seat: it does what it is told to, message by message."""

from __future__ import annotations

import os
import threading

from llmasos_hookspecs.placement import Receive, Send

#: ``SeatSpec.entry`` of this program.
ENTRY = "llmasos_hookspecs.seat_program:serve"


def serve(receive: Receive, send: Send) -> None:
    """Obey until the other side leaves.

    ``echo`` and bytes: send the bytes. ``count N``: send N messages, the numbers from 0. ``print``: write to standard output, then send
    ``printed``. ``pid``: send the process id. ``return``: return. ``exit``: end the process with status 3. ``hang``: never read again.
    """
    while True:
        try:
            message = receive()
        except EOFError:
            return
        verb, _, rest = message.partition(b" ")
        if verb == b"echo":
            send(rest)
        elif verb == b"count":
            for number in range(int(rest)):
                send(str(number).encode())
        elif verb == b"print":
            print("A library printed this.", flush=True)
            send(b"printed")
        elif verb == b"pid":
            send(str(os.getpid()).encode())
        elif verb == b"return":
            return
        elif verb == b"exit":
            os._exit(3)
        elif verb == b"hang":
            threading.Event().wait()
