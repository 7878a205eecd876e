"""``llmasos serve``: run the servers that config names."""

from __future__ import annotations

import signal
import threading
from typing import Annotated

import typer

from llmasos.cli import options as o
from llmasos.cli.console import print_note


def serve(
    model: o.ModelOption = None,
    config: o.ConfigOption = None,
    overrides: o.SetOption = None,
    loader: o.LoaderOption = None,
    scheduler: o.SchedulerOption = None,
    drain: Annotated[float, typer.Option("--drain", min=0.0, help="Seconds in which answers may end after SIGTERM.")] = 30.0,
    quiet: o.QuietOption = False,
) -> None:
    """Run the servers of the config until SIGTERM or Ctrl-C; answers that have begun are finished first."""
    from llmasos.api.servers import Servers

    pipeline, _ = o.open_pipeline(config, overrides, model=model, loader=loader, scheduler=scheduler, quiet=quiet)
    with pipeline:
        servers = Servers(pipeline)
        pipeline.load()
        told = threading.Event()
        before = {each: signal.signal(each, lambda *_: told.set()) for each in (signal.SIGTERM, signal.SIGINT)}
        try:
            with servers:
                for endpoint in servers.endpoints:
                    print_note(f"Listening on {endpoint.url or f'{endpoint.host}:{endpoint.port}'}")
                told.wait()
                for each, handler in before.items():  # a second one ends the program at once
                    signal.signal(each, handler)
                if not servers.drain(drain):
                    print_note(f"Some answers had not ended after {drain:g} seconds.")
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)
