"""The suite contract: named measurements of a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from numbers import Real
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, runtime_checkable

import attrs

from llmasos_hookspecs.checkpoint import Checkpoint
from llmasos_hookspecs.context import Progress
from llmasos_hookspecs.engine import Engine
from llmasos_hookspecs.tasks import TaskModel

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

#: Which values of a figure are better; None: neither (a count, say).
Better = Literal["lower", "higher"]

#: Unit of a figure -> what tables multiply it by, and what they write behind it.
_SHOWN: Final = {"B": (1e-6, " MB"), "share": (100.0, " %")}


@attrs.frozen(kw_only=True)
class Figure:
    """One measured value.

    Attributes:
        name: the key in JSON, such as ``perplexity``; unique in its suite, and the same for every model.
        title: for tables and charts; empty: the name.
        value: the value.
        error: its standard error; None where it has none.
        unit: such as ``nats/token`` or ``tok/s``; empty for a plain number. Tables show ``B``, bytes, in megabytes, and ``share``, 0 to 1,
            in per cent.
        better: ``lower`` or ``higher``; None where neither is better.
        repeatable: whether measuring the same model again gives the same value; False for times.
        digits: digits after the decimal point in tables.
    """

    name: str
    value: float
    title: str = ""
    error: float | None = None
    unit: str = ""
    better: Better | None = None
    repeatable: bool = True
    digits: int = 2

    @property
    def heading(self) -> str:
        """Title and unit, for the head of a table."""
        said = self.unit and self.unit not in _SHOWN  # the values of those say it themselves
        return f"{self.title or self.name} ({self.unit})" if said else self.title or self.name

    def shown(self, value: float) -> str:
        """A value of this figure as tables show it."""
        scale, unit = _SHOWN.get(self.unit, (1.0, ""))
        return f"{value * scale:.{self.digits}f}{unit}"

    def __str__(self) -> str:
        value = self.shown(self.value)
        return value if self.error is None else f"{value} ± {self.shown(self.error)}"


def _are_numbers(value: Any, count: int) -> bool:
    return isinstance(value, Sequence) and len(value) == count and all(isinstance(each, Real) for each in value)


@attrs.frozen(kw_only=True)
class Section:
    """A part of a report as plain data, drawn as text and as HTML.

    Attributes:
        title: its heading.
        text: a paragraph.
        columns, rows: a table; without columns there is none.
        bars: a bar chart: label -> value and standard error (0 where it has none).
        lines: a line chart: name of the line -> points (x, y).
        horizontal: what the points' x is.
        details: what few readers want, folded away on a page: options as JSON, say.

    Raises ``TypeError`` where a field is nothing that can be drawn. In a line a point may have None or what is not finite in the place of a
    number; it is left out.
    """

    title: str
    text: str = ""
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    bars: Mapping[str, tuple[float, float]] = attrs.field(factory=dict)
    lines: Mapping[str, Sequence[tuple[float, float]]] = attrs.field(factory=dict)
    horizontal: str = "step"
    details: str = ""

    def __attrs_post_init__(self) -> None:
        texts = (self.title, self.text, self.horizontal, self.details, *self.columns, *(cell for row in self.rows for cell in row))
        if wrong := [each for each in texts if not isinstance(each, str)]:
            raise TypeError(f"the section {self.title!r:.60} has {wrong[0]!r:.60} where text belongs")
        for label, bar in self.bars.items():
            if not isinstance(label, str) or not _are_numbers(bar, 2):
                raise TypeError(f"the bar {label!r:.60} is {bar!r:.60} instead of a value and its standard error")
        for name, points in self.lines.items():
            if not isinstance(name, str):
                raise TypeError(f"a line is called {name!r:.60} instead of by a text")
            for point in points:
                if not _are_numbers([0.0 if each is None else each for each in point] if isinstance(point, Sequence) else point, 2):
                    raise TypeError(f"the line {name!r:.60} has {point!r:.60} instead of a point (x, y)")


@attrs.frozen(kw_only=True)
class SuiteResult:
    """What a suite measured of one model.

    Attributes:
        figures: in the order in which tables show them.
        facts: plain data for JSON: counts, settings, the answers to single questions.
        notes: what a reader needs to interpret the figures, one sentence each.
    """

    figures: tuple[Figure, ...]
    facts: Mapping[str, Any] = attrs.field(factory=dict)
    notes: tuple[str, ...] = ()

    def figure(self, name: str) -> Figure:
        """The figure of that name. Raises ``KeyError`` where there is none."""
        for each in self.figures:
            if each.name == name:
                return each
        raise KeyError(name)


class MeasuredModel(Protocol):
    """The model that a suite measures, and all that it may run it with. Valid only while ``Suite.measure`` runs.

    Attributes:
        label: what reports call the model.
        checkpoint: its files.
        base: the checkpoint to compare with; None: the model's own weights.
        backend: the loader with its distribution, version and options.
        corpus: name of the text that ``windows`` come from.
    """

    @property
    def label(self) -> str: ...
    @property
    def checkpoint(self) -> Checkpoint: ...
    @property
    def base(self) -> Checkpoint | None: ...
    @property
    def backend(self) -> str: ...
    @property
    def corpus(self) -> str: ...

    def engine(self) -> Engine:
        """The model on its loader, without queue, scheduler and sampler. Loaded at the first call and shared by all suites: close the slots
        that you open, and do not shut it down."""
        ...

    def reference(self) -> Engine:
        """``base`` (or the model itself) with its weights dequantised to float32, on the same loader with default options: what
        divergences are measured from. Shared like ``engine``."""
        ...

    def model(self) -> TaskModel:
        """The same model as applications see it: text in, text out, through queue and scheduler. Shared like ``engine``."""
        ...

    def windows(self, windows: int, length: int) -> npt.NDArray[np.int32]:
        """Token ids [windows, length] of evaluation text, which no accelerator has learned from: fewer windows where the text is too short,
        and shorter ones where the model's context is. The same for all models with one tokenizer.

        Raises:
            ConfigError: the text is shorter than one window.
        """
        ...

    def remember(self, key: str, measure: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
        """What ``measure`` returns, plain data; from an earlier run where the same version of this suite has measured the same model, base,
        corpus and loader under ``key``. For what is slow and the same on every machine; put into ``key`` all else that it depends on."""
        ...

    def progress(self, label: str, total: float | None = None, unit: str = "") -> AbstractContextManager[Progress]:
        """Show that something takes time."""
        ...


@runtime_checkable
class Suite(Protocol):
    """Named measurements of a model, for ``llmasos evaluate --suite NAME`` and for the stages of an acceleration.

    A suite may have more methods. ``results`` maps each model's label to its ``SuiteResult``; in an acceleration the labels are ``base``
    and then the stages in order, ``1 prune``, ``2 quant``.

    - ``sections(results) -> Sequence[Section]``: what it has to say of several models together, with tables and charts;
    - ``notes(results) -> Sequence[str]``: the same in one sentence each, for the notes of a report;
    - ``page(report) -> str``: a whole ``Report``, of all suites, as one HTML page. Of the suites that measured an acceleration, the first
      that has it draws ``report.html``.
    """

    def measure(self, model: MeasuredModel) -> SuiteResult:
        """Measure one model. The names of the figures are the same for every model."""
        ...
