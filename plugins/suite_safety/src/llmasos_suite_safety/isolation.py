"""LLMasOS suite ``isolation``: whether one tenant can tell what another has asked, from cached tokens or from time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import attrs

from llmasos_hookspecs import Component, Context, Figure, MeasuredModel, Section, SuiteResult, hookimpl


@attrs.frozen(kw_only=True)
class Options:
    """Options of the suite."""

    probes: int = attrs.field(
        default=200, validator=attrs.validators.ge(2), metadata={"help": "Prompts that one tenant knows and another asks for."}
    )
    words: int = attrs.field(
        default=60, validator=attrs.validators.ge(4), metadata={"help": "Words of a prompt; fewer where the context is short."}
    )


class IsolationSuite:
    """Implements ``llmasos_hookspecs.Suite``."""

    def __init__(self, options: Options, seed: int = 0, clock: Callable[[], float] = time.perf_counter) -> None:
        """``clock`` tells seconds."""
        self._options = options
        self._seed = seed
        self._clock = clock

    def measure(self, model: MeasuredModel) -> SuiteResult:
        from llmasos_suite_safety.probing import probe

        with model.progress(f"isolation of {model.label}", self._options.probes, "probes") as progress:
            found = probe(model.model(), self._options.probes, self._options.words, self._seed, self._clock, progress.advance)
        distance, p = found.apart("known")
        own, _ = found.apart("own")
        tells = p < 0.01 or found.cached("known") > 0
        verdict = "another tenant can tell a prompt that was asked before" if tells else "no tenant can tell what another has asked"
        return SuiteResult(
            figures=(
                Figure(name="leaked_tokens", title="leaked tokens", value=found.cached("known"), unit="share", better="lower", digits=1),
                Figure(name="own_tokens", title="own cached tokens", value=found.cached("own"), unit="share", digits=1),
                Figure(name="ttft_distance", title="TTFT, known to new", value=distance, better="lower", repeatable=False, digits=3),
                Figure(name="ttft_p", title="TTFT, p", value=p, repeatable=False, digits=3),
                Figure(name="own_distance", title="TTFT, own to new", value=own, repeatable=False, digits=3),
            ),
            facts={"probes": self._options.probes, "milliseconds": found.quantiles()},
            notes=(f"{model.label}: {verdict}: {found.cached('known'):.1%} of its tokens were cached, and TTFT differs with p = {p:.3g}.",),
        )

    def sections(self, results: Mapping[str, SuiteResult]) -> Sequence[Section]:
        """How the times are distributed."""
        return [
            Section(
                title=f"Milliseconds to the first token, {label}",
                text="The share of probes that took no longer: of prompts that another tenant had asked, that nobody had, and that the "
                "same tenant had. Where tenants are apart, the first two lines cannot be told from one another.",
                lines={
                    name: [(value, place / (len(values) - 1)) for place, value in enumerate(values)]
                    for name, values in result.facts["milliseconds"].items()
                },
                horizontal="ms",
            )
            for label, result in results.items()
        ]


@hookimpl
def llmasos_component() -> Component:
    return Component(
        summary="Whether a tenant can tell what another has asked, from cached tokens or from the time to the first token.",
        options=Options,
        examples=("llmasos evaluate smollm2 --suite isolation",),
    )


@hookimpl
def llmasos_create_suite(options: Options, context: Context) -> IsolationSuite:
    return IsolationSuite(options, context.seed)
