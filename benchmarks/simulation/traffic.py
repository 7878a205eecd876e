"""Who asks for what, and when."""

from __future__ import annotations

import attrs
import numpy as np
import numpy.typing as npt

from llmasos_hookspecs import Request, SamplingParams

#: Tenant number of the one who floods.
FLOOD = -1
_SAMPLING = SamplingParams()


@attrs.frozen(kw_only=True)
class Traffic:
    """Requests in order of arrival, as columns.

    Attributes:
        arrivals: seconds.
        tenants: numbers.
        prompts, outputs: tokens; ``limits`` is the ``max_new_tokens`` they ask for, which their outputs mostly do not reach.
        priorities: 0 to 2.
        deadlines: seconds from arrival; NaN for none.
    """

    arrivals: npt.NDArray[np.float64]
    tenants: npt.NDArray[np.int32]
    prompts: npt.NDArray[np.int32]
    outputs: npt.NDArray[np.int32]
    limits: npt.NDArray[np.int32]
    priorities: npt.NDArray[np.int8]
    deadlines: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.arrivals)

    def request(self, number: int) -> Request:
        arrival, deadline = float(self.arrivals[number]), float(self.deadlines[number])
        return Request(
            id=f"r{number}",
            model="modelled",
            tokens=range(int(self.prompts[number])),
            max_new_tokens=int(self.limits[number]),
            arrival=arrival,
            tenant=f"t{self.tenants[number]}",
            priority=int(self.priorities[number]),
            deadline=None if np.isnan(deadline) else arrival + deadline,
            sampling=_SAMPLING,
        )


def lengths(rng: np.random.Generator, count: int, mean_prompt: float, mean_output: float) -> tuple[npt.NDArray[np.int32], ...]:
    """Prompts (log-normal), outputs (geometric) and limits (the next power of two above a few times the mean, or the output)."""
    sigma = 0.9
    prompts = np.clip(rng.lognormal(np.log(mean_prompt) - sigma**2 / 2, sigma, count), 4, 2048).astype(np.int32)
    outputs = np.clip(rng.geometric(1 / mean_output, count), 1, 512).astype(np.int32)
    limits = np.maximum(outputs, rng.choice([32, 64, 128], count)).astype(np.int32)
    return prompts, outputs, limits


def traffic(*, requests: int, tenants: int, rate: float, flood_rate: float, mean_prompt: float, mean_output: float, seed: int) -> Traffic:
    """Poisson arrivals of ``rate`` a second from tenants whose sizes follow Zipf's law, and beside them one tenant that sends
    ``flood_rate`` a second for as long as the others do."""
    rng = np.random.default_rng(seed)
    arrivals = np.cumsum(rng.exponential(1 / rate, requests))
    shares = 1 / np.arange(1, tenants + 1) ** 0.8
    who = rng.choice(tenants, requests, p=shares / shares.sum()).astype(np.int32)
    flood = np.sort(rng.uniform(0, arrivals[-1], int(flood_rate * arrivals[-1])))
    every = np.concatenate([arrivals, flood])
    order = np.argsort(every, kind="stable")
    prompts, outputs, limits = lengths(rng, len(every), mean_prompt, mean_output)
    deadlines = np.where(rng.random(len(every)) < 0.3, rng.uniform(2, 30, len(every)), np.nan)
    return Traffic(
        arrivals=every[order],
        tenants=np.concatenate([who, np.full(len(flood), FLOOD, np.int32)])[order],
        prompts=prompts,
        outputs=outputs,
        limits=limits,
        priorities=rng.choice(3, len(every), p=[0.7, 0.2, 0.1]).astype(np.int8),
        deadlines=deadlines,
    )
