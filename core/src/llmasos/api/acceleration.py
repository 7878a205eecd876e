"""Acceleration and measurement for programs: what ``llmasos accelerate`` does, and what suites measure of models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llmasos.api.pipeline import ComponentArgument, Pipeline, as_component, as_stages
from llmasos_config import Config

if TYPE_CHECKING:
    from llmasos.acceleration import AccelerationReport
    from llmasos.acceleration.corpus import Corpus
    from llmasos.system.context import ProgressSink
    from llmasos_hookspecs import Measurement


def accelerate(
    source: str | Path,
    stages: ComponentArgument | Sequence[ComponentArgument],
    *,
    output: str | Path | None = None,
    loader: ComponentArgument = "auto",
    measure: bool = True,
    corpus: str | Path | None = None,
    windows: int | None = None,
    length: int | None = None,
    seed: int = 0,
    allow_low_coverage: bool = False,
    allow_pickle: bool = False,
    offline: bool = False,
    progress: ProgressSink | None = None,
) -> AccelerationReport:
    """Quantise, prune, distil: run accelerator stages over a model, and measure what each cost and brought.

    The result is a checkpoint of its own: load it by its path; no accelerator plugin is needed for that.

    Args:
        source: the model, as for ``load_model``.
        stages: one, or several in order, each a name or a mapping with ``use`` and options: ``{"use": "quant", "bits": 8}``.
        output: a new folder for the result, its report and its manifest; None leaves it in the cache.
        loader: what the figures are measured on.
        measure: whether to measure every stage; False only runs them.
        corpus: a text file to calibrate and evaluate on; None: English prose of the standard library.
        windows, length: evaluation windows, and tokens of each; by default 40 of 512.
        seed: of all that is random.
        allow_low_coverage: accept a stage that changed less than 90 % of the weights that it could.

    Raises:
        AccelerationError: the plan cannot work (every problem is named, before a weight is read), or a stage failed.
        PluginError: stages are to be measured, and the suites are not installed; the message names the package.
    """
    config = _config(source, loader, seed=seed, allow_pickle=allow_pickle, offline=offline)
    with Pipeline(config, sink=progress) as pipeline:
        return pipeline.accelerate(
            [as_component(stage, f"accelerate[{index}]", {}) for index, stage in enumerate(as_stages(stages))],
            output=None if output is None else Path(output),
            measure=measure,
            corpus=_corpus(corpus),
            allow_low_coverage=allow_low_coverage,
            windows=windows,
            length=length,
        )


def evaluate(
    models: str | Path | Mapping[str, str | Path] | Sequence[str | Path],
    *,
    base: str | Path | None = None,
    loader: ComponentArgument = "auto",
    corpus: str | Path | None = None,
    windows: int | None = None,
    length: int | None = None,
    speed: bool = True,
    allow_pickle: bool = False,
    offline: bool = False,
    progress: ProgressSink | None = None,
) -> dict[str, Measurement]:
    """Perplexity, divergence to a base, size and speed of models on one backend: label -> figures.

    Args:
        models: one model reference, several, or label -> reference.
        base: what predictions are compared with (KL divergence, top-1 agreement), computed in float32; None: the first of several
            models, and for one alone its own weights, dequantised, so that the divergence is what the backend's arithmetic costs.
        corpus: a text file; None: English prose of the standard library.
        windows, length: evaluation windows, and tokens of each; by default 40 of 512.
        speed: measure prefill and decode too.

    Raises:
        PluginError: the suites that measure are not installed; the message names the package.
    """
    named = {str(models): models} if isinstance(models, str | Path) else models
    if not isinstance(named, Mapping):
        named = {str(model): model for model in named}
    if base is None and len(named) > 1:
        base = next(iter(named.values()))
    found = {}
    for label, reference in named.items():
        config = _config(reference, loader, allow_pickle=allow_pickle, offline=offline)
        with Pipeline(config, sink=progress) as pipeline:
            found[label] = pipeline.measure(
                base=None if base is None else str(base), corpus=_corpus(corpus), windows=windows, length=length, speed=speed
            )
    return found


def _config(source: str | Path, loader: ComponentArgument, *, allow_pickle: bool, offline: bool, seed: int = 0) -> Config:
    return Config.from_mapping(
        {"model": {"source": str(source), "allow_pickle": allow_pickle}, "loader": loader, "offline": offline, "seed": seed}
    )


def _corpus(path: str | Path | None) -> Corpus:
    from llmasos.acceleration.corpus import Corpus

    return Corpus.default() if path is None else Corpus.from_file(Path(path))
