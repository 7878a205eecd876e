"""An example server for LLMasOS: lines of JSON over TCP, with nothing but the standard library.

A client sends ``{"prompt": "...", "key": "...", "model": "...", "max_new_tokens": 20}`` on a line, and gets lines: ``{"text": "..."}`` for
each piece, then ``{"finish": "stop", "tokens": 20}`` or ``{"error": "..."}``. Several prompts may follow one another on a connection.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading

import attrs

from llmasos_hookspecs import (
    Component,
    Credentials,
    Endpoint,
    ErrorEvent,
    FinishEvent,
    LLMasOSError,
    RequestError,
    ResourceError,
    TextEvent,
    UsageEvent,
    hookimpl,
)

#: Most bytes of a line.
LONGEST = 1 << 20


@attrs.frozen(kw_only=True)
class Options:
    """Options of the server."""

    host: str = attrs.field(default="127.0.0.1", metadata={"help": "Address to listen on."})
    port: int = attrs.field(
        default=8100, validator=[attrs.validators.ge(0), attrs.validators.le(65535)], metadata={"help": "0: any free one."}
    )


class Connection:
    """One client: a thread that reads its lines, and one that answers them, so that its leaving is noticed while an answer is written."""

    def __init__(self, server, connection, address):
        self._server = server
        self._socket = connection
        self._client = address[0]
        self._lines = []
        self._changed = threading.Condition()
        self._over = False
        self._answer = None
        for target in (self._read, self._serve):
            threading.Thread(target=target, daemon=True).start()

    def close(self):
        """The client has left, or the server stops."""
        with self._changed:
            self._over = True
            answer = self._answer
            self._changed.notify()
        if answer is not None:
            answer.cancel()
        with contextlib.suppress(OSError):  # it is closed already
            self._socket.shutdown(socket.SHUT_RDWR)

    def _read(self):
        try:
            with self._socket.makefile("rb") as lines:
                while line := lines.readline(LONGEST + 1):
                    if len(line) > LONGEST:
                        break
                    with self._changed:
                        self._lines.append(line)
                        self._changed.notify()
        except OSError:
            pass
        self.close()

    def _serve(self):
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._lines or self._over)
                    if self._over:
                        return
                    line = self._lines.pop(0)
                if not self._server.begin():
                    self._send(error="The server is being stopped; send the prompt to another.")
                    return
                try:
                    self._respond(line)
                finally:
                    self._server.done()
        except OSError:  # the client has left
            pass
        finally:
            self.close()
            self._socket.close()
            self._server.forget(self)

    def _respond(self, line):
        try:
            asked = _parsed(line)
            runtime = self._server.runtime
            key = str(asked.pop("key", ""))
            credentials = Credentials(scheme="bearer" if key else "", secret=key, client=self._client)
            principal = runtime.authenticate(credentials)
            answer = runtime.generate(principal, asked.pop("prompt", ""), model=asked.pop("model", None), **asked)
        except LLMasOSError as error:
            self._send(error=str(error))
            return
        with self._changed:
            self._answer = answer
            if self._over:
                answer.cancel()
        tokens = 0
        for event in answer:
            match event:
                case TextEvent(text=text):
                    self._send(text=text)
                case UsageEvent(generated_tokens=count):
                    tokens = count
                case FinishEvent(reason=reason):
                    self._send(finish=reason, tokens=tokens)
                case ErrorEvent(error=error):
                    self._send(error=str(error))
        self._answer = None

    def _send(self, **line):
        self._socket.sendall(json.dumps(line).encode() + b"\n")


class LineServer:
    """Listens, and keeps count of what is being answered."""

    def __init__(self, runtime, options):
        self.runtime = runtime
        self.endpoints = [Endpoint(host=options.host, port=options.port, url=f"tcp://{options.host}:{options.port}")]
        self._options = options
        self._listener = None
        self._draining = False
        self._changed = threading.Condition()
        self._active = 0
        self._connections = set()

    def start(self):
        host, port = self._options.host, self._options.port
        try:
            self._listener = socket.create_server((host, port))
        except OSError as error:
            raise ResourceError(f"The server lines cannot listen on {host}:{port} ({error.strerror}); choose another port.") from error
        port = self._listener.getsockname()[1]
        self.endpoints = [Endpoint(host=host, port=port, url=f"tcp://{host}:{port}")]
        threading.Thread(target=self._accept, daemon=True).start()

    def drain(self, seconds):
        self._close_listener()
        with self._changed:
            self._draining = True
            return self._changed.wait_for(lambda: not self._active, seconds)

    def stop(self):
        self._close_listener()
        with self._changed:
            self._draining = True
            connections = list(self._connections)
        for connection in connections:
            connection.close()
        with self._changed:
            self._changed.wait_for(lambda: not self._connections, 5)

    def begin(self):
        """Count a request as being answered; False while the server is being drained."""
        with self._changed:
            self._active += not self._draining
            return not self._draining

    def done(self):
        with self._changed:
            self._active -= 1
            self._changed.notify_all()

    def forget(self, connection):
        with self._changed:
            self._connections.discard(connection)
            self._changed.notify_all()

    def _accept(self):
        while True:
            try:
                accepted, address = self._listener.accept()
            except OSError:  # the listener was closed
                return
            with self._changed:
                if self._draining:
                    accepted.close()
                    return
                self._connections.add(Connection(self, accepted, address))

    def _close_listener(self):
        listener = self._listener
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
            listener.close()


def _parsed(line):
    try:
        asked = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"The line is no JSON ({error}); send an object with the key prompt.") from error
    if not isinstance(asked, dict):
        raise RequestError(f"The line is a {type(asked).__name__}; send an object with the key prompt.")
    return asked


@hookimpl
def llmasos_component():
    return Component(summary="Lines of JSON over TCP.", options=Options)


@hookimpl
def llmasos_create_server(runtime, options, context):
    return LineServer(runtime, options)
