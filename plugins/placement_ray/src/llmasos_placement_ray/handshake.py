"""Connections whose two sides prove to each other that they know a key before anything else is said.

The side that listens sends a nonce. The other one answers with a nonce of its own and the HMAC-SHA256 of both under the key, and gets an
HMAC of both in return. The key never travels here, and each proof is good for one connection. What is said afterwards is neither encrypted
nor signed.
"""

from __future__ import annotations

import contextlib
import hmac
import secrets
import socket
import time
from multiprocessing.connection import wait
from typing import Any, Final

import attrs

_KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 32
_PROOF_BYTES: Final = 32
#: The two sides prove different things, so that neither can be sent back its own proof.
_LISTENER, _CALLER = b"listener", b"caller"
#: Connections that may be without proof at one time; one more closes the oldest.
_STRANGERS: Final = 16


def connect(host: str, port: int, key: bytes, seconds: float) -> socket.socket:
    """Connect to a ``Listener``, within ``seconds``. Raises ``ConnectionError``: it cannot be reached, or does not know the key."""
    until = time.monotonic() + seconds
    with contextlib.ExitStack() as on_failure:
        try:
            connection = on_failure.enter_context(socket.create_connection((host, port), timeout=seconds))
            theirs, ours = _received(connection, _NONCE_BYTES, until), secrets.token_bytes(_NONCE_BYTES)
            connection.sendall(ours + _proof(key, _CALLER, theirs, ours))
            if not hmac.compare_digest(_received(connection, _PROOF_BYTES, until), _proof(key, _LISTENER, theirs, ours)):
                raise ConnectionError("its proof is wrong")
        except OSError as error:
            raise ConnectionError(f"{host}:{port} is no seat that can be reached: {error}") from error
        on_failure.pop_all()
        return _unhindered(connection)


class Listener:
    """Waits for the one connection whose other side knows its key.

    Attributes:
        port: where it listens.
        key: random bytes, for the other side alone.
    """

    def __init__(self, host: str) -> None:
        """``host``: the address of the interface to listen on."""
        self._socket: Final = socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        self._socket.setblocking(False)
        self._strangers: list[_Stranger] = []
        self.port: Final[int] = self._socket.getsockname()[1]
        self.key: Final = secrets.token_bytes(_KEY_BYTES)

    def accept(self) -> socket.socket:
        """The connection; the listener and all other connections are closed. Those may say what they like, or nothing: none is waited
        for."""
        try:
            while True:
                sources: list[Any] = [self._socket, *self._strangers]
                ready: list[Any] = wait(sources)
                for each in ready:
                    if each is self._socket:
                        self._welcome()
                    elif each in self._strangers and self._is_known(each):  # else its place was given to another one
                        return _unhindered(each.connection)
        finally:
            self.close()

    def close(self) -> None:
        self._socket.close()
        for each in self._strangers:
            each.connection.close()

    def _welcome(self) -> None:
        with contextlib.suppress(OSError):  # it has left again
            connection, _ = self._socket.accept()
            self._strangers.append(_Stranger(connection))
            connection.setblocking(False)
            connection.send(self._strangers[-1].nonce)
        if len(self._strangers) > _STRANGERS:
            self._strangers.pop(0).connection.close()

    def _is_known(self, stranger: _Stranger) -> bool:
        """Whether what it said until now proves that it knows the key; one that did not keep to the protocol is closed."""
        try:
            known = stranger.proves(self.key)
        except OSError:
            stranger.connection.close()
            self._strangers.remove(stranger)
            return False
        if known:
            self._strangers.remove(stranger)
        return known


@attrs.define(eq=False)
class _Stranger:
    """A connection whose other side has not proven yet that it knows the key.

    Attributes:
        said: what it said until now.
    """

    connection: socket.socket
    nonce: bytes = attrs.field(factory=lambda: secrets.token_bytes(_NONCE_BYTES))
    said: bytes = b""

    def fileno(self) -> int:
        return self.connection.fileno()

    def proves(self, key: bytes) -> bool:
        """Hear more of it, and answer its proof; False: it has not said all. Raises ``OSError``: it left, or its proof is wrong."""
        part = self.connection.recv(_NONCE_BYTES + _PROOF_BYTES - len(self.said))
        if not part:
            raise ConnectionError("it left")
        self.said += part
        theirs, proof = self.said[:_NONCE_BYTES], self.said[_NONCE_BYTES:]
        if len(proof) < _PROOF_BYTES:
            return False
        if not hmac.compare_digest(proof, _proof(key, _CALLER, self.nonce, theirs)):
            raise ConnectionError("its proof is wrong")
        self.connection.send(_proof(key, _LISTENER, self.nonce, theirs))
        return True


def _proof(key: bytes, side: bytes, listeners: bytes, callers: bytes) -> bytes:
    """That ``side`` knows the key, for a connection with these two nonces."""
    return hmac.digest(key, side + listeners + callers, "sha256")


def _unhindered(connection: socket.socket) -> socket.socket:
    """A connection that waits as long as need be, and sends at once what it is given."""
    connection.settimeout(None)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _received(connection: socket.socket, count: int, until: float) -> bytes:
    """Exactly ``count`` bytes. Raises ``OSError`` where they do not come before ``until``."""
    found = b""
    while len(found) < count:
        connection.settimeout(max(1e-3, until - time.monotonic()))
        part = connection.recv(count - len(found))
        if not part:
            raise ConnectionError("it closed the connection")
        found += part
    return found
