"""What a replica is started with."""

from __future__ import annotations

import attrs

from llmasos.system.config import Config
from llmasos_hookspecs import SeatSpec


@attrs.frozen(kw_only=True)
class WorkerSpec:
    """What a replica serves, a config with one model, and what its seat needs."""

    config: Config
    seat: SeatSpec
