"""The servers of a pipeline: what ``llmasos serve`` runs."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from llmasos.api.pipeline import Pipeline
from llmasos.api.reloading import apply
from llmasos.api.runtime import PipelineRuntime
from llmasos_config import Config
from llmasos_hookspecs import ConfigError, Endpoint, LLMasOSError, Server, is_loopback
from llmasos_hookspecs.guarding.edge import crossing

_log = logging.getLogger("llmasos.servers")


class Servers:
    """All that the ``[[server]]`` tables of a pipeline's config name. As a context manager: started, and stopped at the end.

    Attributes:
        runtime: what they serve.
    """

    def __init__(self, pipeline: Pipeline, *, read_again: Callable[[], Config] | None = None) -> None:
        """Makes the servers; nothing listens yet. ``read_again`` reads the config as it is now, for administrators who ask for that.

        Raises:
            ConfigError: config names no server, or one that others than this machine can reach without access control.
            PluginError: a server or the access control cannot be made.
        """
        access = pipeline.composer.access()
        self.runtime: Final = PipelineRuntime(pipeline, access)
        if not pipeline.config.servers:
            raise ConfigError("The config names no server; add a [[server]] table with the name of an installed one.", "server")
        self._open = access.is_open
        self._servers: list[tuple[Server, str]] = [pipeline.composer.server(each, self.runtime) for each in pipeline.config.servers]
        self._pipeline = pipeline
        self._reloading = threading.Lock()
        if read_again is not None:
            self.runtime.reloader = lambda: self.reload(read_again())
        self._stopped = False
        for place, (server, label) in enumerate(self._servers):
            self._check_reach(server, label, f"server[{place}]")

    @property
    def endpoints(self) -> list[Endpoint]:
        """Where they listen."""
        return [endpoint for server, _ in self._servers for endpoint in server.endpoints]

    def start(self) -> None:
        """Listen. Where one server cannot, those that were started are stopped, and its error is raised."""
        try:
            for place, (server, label) in enumerate(self._servers):
                with crossing(label, "start"):
                    server.start()
                self._check_reach(server, label, f"server[{place}]")
        except BaseException:
            self.stop()
            raise

    def reload(self, config: Config) -> list[str]:
        """Use another config without a restart, as far as that can be; see ``llmasos.api.reloading.apply``."""
        with self._reloading:
            return apply(config, self._pipeline, self._servers)

    def drain(self, seconds: float) -> bool:
        """Accept no new work, and wait at most so long until what was accepted is answered; returns whether all was."""
        self.runtime.draining = True
        end = time.monotonic() + seconds
        drained: list[bool] = []

        def drain(server: Server, label: str) -> None:
            try:
                with crossing(label, "drain"):
                    drained.append(bool(server.drain(max(0.0, end - time.monotonic()))))
            except LLMasOSError as error:
                _log.error("%s", error)

        threads = [threading.Thread(target=drain, args=each, name="llmasos-drain", daemon=True) for each in self._servers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()) + 1.0)  # a server that takes longer than it was told is stopped
        return len(drained) == len(self._servers) and all(drained)

    def stop(self) -> None:
        """End what is left, and free the ports. Calling it again does nothing."""
        if self._stopped:
            return
        self._stopped = True
        self.runtime.draining = True
        for server, label in self._servers:
            try:
                with crossing(label, "stop"):
                    server.stop()
            except LLMasOSError as error:
                _log.error("%s", error)
        if not self.runtime.close():
            _log.error("What the last requests used is not recorded yet; the access control takes too long.")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def _check_reach(self, server: Server, label: str, path: str) -> None:
        with crossing(label, "endpoints"):
            hosts = [endpoint.host for endpoint in server.endpoints]
        for host in hosts:
            if self._open and not is_loopback(host):
                raise ConfigError(
                    f"{path}: the {label} listens on {host}, which others can reach, and access is open to everybody; set [access], or "
                    "listen on 127.0.0.1.",
                    path,
                )
