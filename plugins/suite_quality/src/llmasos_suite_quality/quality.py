"""LLMasOS suite ``quality``: perplexity, and divergence from the base in float32."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import attrs

from llmasos_hookspecs import Checkpoint, Component, Figure, MeasuredModel, QuantizedTensor, Report, SuiteResult, hookimpl

if TYPE_CHECKING:
    from llmasos_suite_quality.divergence import Quality


@attrs.frozen(kw_only=True)
class Options:
    """Options of the suite; the defaults are what the documentation's figures were measured with."""

    windows: int = attrs.field(default=40, validator=attrs.validators.ge(1), metadata={"help": "Windows of evaluation text."})
    length: int = attrs.field(default=512, validator=attrs.validators.ge(2), metadata={"help": "Tokens of a window."})


class QualitySuite:
    """Implements ``llmasos_hookspecs.Suite``, and draws reports."""

    def __init__(self, options: Options) -> None:
        self._options = options

    def measure(self, model: MeasuredModel) -> SuiteResult:
        quality = self._quality(model)
        return SuiteResult(
            figures=(
                Figure(name="perplexity", value=quality.perplexity, error=quality.perplexity_error, better="lower"),
                Figure(
                    name="mean_kl",
                    title="mean KL",
                    value=quality.mean_kl,
                    error=quality.mean_kl_error,
                    unit="nats/token",
                    better="lower",
                    digits=4,
                ),
                Figure(name="p99_kl", title="p99 KL", value=quality.p99_kl, unit="nats/token", better="lower", digits=3),
                Figure(name="top1", title="top-1", value=quality.top1, unit="share", better="higher", digits=1),
            ),
            facts={"tokens": quality.tokens, "window": quality.window, "reference": quality.reference},
            notes=tuple(self._notes(model, quality)),
        )

    def notes(self, results: Mapping[str, SuiteResult]) -> list[str]:
        """What the stages of an acceleration lost and recovered."""
        if next(iter(results), None) != "base":
            return []
        return list(_stage_notes(results))

    def page(self, report: Report) -> str:
        from llmasos_suite_quality.page import render

        return render(report)

    def _quality(self, model: MeasuredModel) -> Quality:
        """Measured, or remembered: it is slow, and the same on every machine."""
        from llmasos_suite_quality.divergence import Quality, measure_quality

        windows = model.windows(self._options.windows, self._options.length)

        def measured() -> dict[str, Any]:
            with model.progress(f"evaluate {model.label}", len(windows), "windows") as progress:
                found = measure_quality(model.engine(), windows, reference=model.reference(), progress=progress)
            # JSON has no infinity: a figure that is not finite is kept as its text.
            plain = attrs.asdict(found)
            return {name: str(value) if isinstance(value, float) and not math.isfinite(value) else value for name, value in plain.items()}

        known = model.remember(f"quality {windows.shape}", measured)
        values: dict[str, Any] = {
            name: float(value) if isinstance(value, str) and name != "reference" else value for name, value in known.items()
        }
        return Quality(**values)

    def _notes(self, model: MeasuredModel, quality: Quality) -> Iterator[str]:
        if quality.window < self._options.length:
            asked = self._options.length
            yield f"The model's context has {quality.window} tokens, and so have the evaluation windows; {asked} were asked for."
        if quality.reference != "float32":
            yield f"The base that the divergences refer to was computed in {quality.reference}, so they leave out what that rounds."
        if model.base is not None:
            yield from base_notes(model.base)


def base_notes(checkpoint: Checkpoint) -> Iterator[str]:
    """How the base's own quantisation affects the figures."""
    for name in checkpoint.names():
        if not name.endswith("_proj.weight"):
            continue
        tensor = checkpoint.tensor(name)
        if isinstance(tensor, QuantizedTensor):
            offset = " with a float minimum" if tensor.minimums is not None else ""
            yield (
                f"The base comes from a file of {tensor.bits}-bit blocks (groups of {tensor.group}{offset}). A grid of just that form "
                "would hold it without any loss, by construction; that is no method's merit, and every other grid of as few bits rounds "
                "weights that were rounded before."
            )
        return


def _stage_notes(results: Mapping[str, SuiteResult]) -> Iterator[str]:
    base = before = math.log(results["base"].figure("perplexity").value)
    for label, result in results.items():
        if label == "base":
            continue
        mean_kl, now = result.figure("mean_kl").value, math.log(result.figure("perplexity").value)
        if mean_kl > 0.1:
            yield f"{label}: the predictions now diverge from the base's by {mean_kl:.2f} nats a token, which readers will notice."
        lost, recovered = before - base, before - now
        if 0.01 < lost < math.inf and recovered > 0.01:
            yield f"{label}: recovered {recovered / lost:.0%} of the log-perplexity that was lost before it."
        before = now


@hookimpl
def llmasos_component() -> Component:
    return Component(
        summary="Perplexity, and divergence from the base in float32: KL and top-1 agreement.",
        options=Options,
        examples=("llmasos evaluate smollm2 --suite quality:windows=8",),
    )


@hookimpl
def llmasos_create_suite(options: Options) -> QualitySuite:
    return QualitySuite(options)
