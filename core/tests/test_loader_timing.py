"""``[loader] tune = true``: loaders are timed at the first load, and the fastest is taken; a clock of the test's own counts."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from llmasos import Pipeline
from llmasos.cli.app import app
from llmasos.compose import composition, loader_timing
from llmasos.compose.formats import open_model
from llmasos.compose.loader_timing import ANSWER, PROMPT, TIMINGS, KeptTimings, Timings, exchange_seconds, time_loaders
from llmasos.system import discovery
from llmasos.system.discovery import Registry
from llmasos.system.loader_choice import installed_loaders
from llmasos_hookspecs import ConfigError, EngineLimits, Row
from llmasos_hookspecs.testing import ReferenceEngine, tiny_checkpoint
from llmasos_model_store.folders import cache_folder

#: A loader whose steps take so many seconds of the planted clock a run and a token.
PLANTED = """
    from llmasos_hookspecs import Component, hookimpl

    @hookimpl
    def llmasos_component(): return Component(summary="Planted.", preference={preference})

    @hookimpl
    def llmasos_load(checkpoint, context):
        import planted_clock
        return planted_clock.engine("{name}", checkpoint, context.limits, {run}, {token}, fails={fails})
"""


class Clock:
    """A clock that engines advance, and what they did."""

    def __init__(self) -> None:
        self.now = 0.0
        self.loads: list[str] = []
        self.running: set[str] = set()

    def __call__(self) -> float:
        return self.now

    def engine(self, name: str, checkpoint: Any, limits: EngineLimits, run: float, token: float, *, fails: bool = False) -> Any:
        self.loads.append(name)
        self.running.add(name)
        return Planted(self, name, ReferenceEngine(checkpoint, limits), run, token, fails=fails)


class Planted:
    """The reference engine, whose steps take time by the planted clock alone."""

    def __init__(self, clock: Clock, name: str, engine: Any, run: float, token: float, *, fails: bool) -> None:
        self._clock, self._name, self._engine, self._run, self._token, self._fails = clock, name, engine, run, token, fails

    def step(self, rows: list[Row]) -> Any:
        if self._fails:
            raise RuntimeError("no kernel")
        self._clock.now += self._run + self._token * sum(len(row.tokens) for row in rows)
        return self._engine.step(rows)

    def shutdown(self) -> None:
        self._clock.running.discard(self._name)
        self._engine.shutdown()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The planted clock, which planted loaders and the timing of loaders use."""
    planted = Clock()
    monkeypatch.setitem(sys.modules, "planted_clock", SimpleNamespace(engine=planted.engine))
    monkeypatch.setattr(composition, "time_loaders", functools.partial(time_loaders, clock=planted))
    return planted


@pytest.fixture
def opened(add: Any, tiny: Path, clock: Clock) -> Iterator[Callable[..., Any]]:
    """Plants loaders of a preference higher than any installed one's, a slow one first; loads the tiny model, and gives it."""
    add("loader", "slow", PLANTED.format(name="slow", preference=3000, run=0.5, token=0.5, fails=False))
    add("loader", "fast", PLANTED.format(name="fast", preference=2000, run=0.05, token=0.05, fails=False))
    add("loader", "broken", PLANTED.format(name="broken", preference=1000, run=0, token=0, fails=True))
    made: list[Pipeline] = []

    def make(loader: Any, **more: Any) -> Any:
        config = {"model": {"source": str(tiny)}, "loader": loader, **more}
        made.append(Pipeline.from_config(config, registry=only("slow", "fast", "broken")))
        return made[-1].load()

    yield make
    for each in made:
        each.close()


def only(*names: str) -> Registry:
    """The installed components, of loaders those alone."""
    registry = Registry()
    entries = registry.entries
    registry.entries = lambda kind=None: [each for each in entries(kind) if each.kind != "loader" or each.name in names]  # type: ignore[method-assign,assignment]  # the others would be loaded too
    return registry


TUNED = {"use": "auto", "tune": True}


def test_the_first_load_times_the_loaders_and_takes_the_fastest(opened: Any, clock: Clock) -> None:
    """One that fails is left out; each is shut down before the next, and the notes say the figures."""
    model = opened(TUNED)
    assert model.describe()["loader"].startswith('loader "fast"')
    assert clock.loads == ["slow", "fast", "broken", "fast"]
    assert clock.running == {"fast"}
    (note,) = [note for note in model.notes if "Timed on this machine" in note]
    assert model.describe()["loader_choice"] == note
    assert 'fast" (made-fast 1.0)' in note.partition("tokens: ")[2].partition(" s,")[0]
    assert "broken" not in note


def test_later_loads_remember_it(opened: Any, clock: Clock) -> None:
    """No loader is timed again; without ``tune`` the preferred one is taken as before."""
    opened(TUNED)
    clock.loads.clear()
    assert opened(TUNED).describe()["loader"].startswith('loader "fast"')
    assert clock.loads == ["fast"]
    assert opened("auto").describe()["loader"].startswith('loader "slow"')


def test_a_model_says_how_its_loader_was_chosen(opened: Any) -> None:
    """By preference, or because config names it."""
    assert opened("auto").describe()["loader_choice"] == "Of the installed loaders that take the model it is preferred."
    assert opened("fast").describe()["loader_choice"] == "The config names it."


def test_models_show_says_what_was_timed(opened: Any, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The preferred loader, and the one that tune takes, with the figures; nothing of it before the first load."""

    def shown() -> dict[str, Any]:
        done = CliRunner().invoke(app, ["models", "show", str(tiny), "--json"])
        assert done.exit_code == 0, done.output
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    monkeypatch.setattr(discovery, "registry", Registry)  # the process's own was read before the planted ones were there
    assert shown()["loader"] == "slow"
    assert "tuned_loader" not in shown()
    loaders = installed_loaders(Registry())
    fast = next(each.entry.label for each in loaders if each.entry.name == "fast")
    KeptTimings(cache_folder() / TIMINGS).add(open_model(tiny), loaders, Timings({fast: 0.25}))
    assert shown()["tuned_loader"] == "fast"
    assert f"{PROMPT} prompt and {ANSWER} answer tokens: the {fast} 0.25 s" in shown()["timings"]


def test_tune_is_for_auto_alone(opened: Any) -> None:
    """A loader that is named has no such option, and a word is no truth value."""
    with pytest.raises(ConfigError, match="tune"):
        opened({"use": "fast", "tune": True})
    with pytest.raises(ConfigError, match=r"loader\.tune is .*, and it must be true or false"):
        opened({"use": "auto", "tune": "yes"})


def test_an_exchange_is_a_prompt_and_an_answer_alone_and_in_a_batch(clock: Clock) -> None:
    """The figure is made of the medians of what each run took."""
    engine = clock.engine("one", tiny_checkpoint("llama", max_position_embeddings=256), EngineLimits(max_sequences=4), 0.25, 0.125)
    batch = (0.25 + 4 * 0.125) / 4
    assert exchange_seconds(engine, clock=clock, seconds=1) == 0.25 + PROMPT * 0.125 + ANSWER * (0.375 + batch) / 2


def test_each_part_is_timed_for_its_share_of_the_time(clock: Clock) -> None:
    """A fast engine runs often, a slow one once after its first run."""
    checkpoint = tiny_checkpoint("llama", max_position_embeddings=256)
    exchange_seconds(clock.engine("slow", checkpoint, EngineLimits(max_sequences=1), 10.0, 0.0), clock=clock, seconds=2)
    assert clock.now == 40.0
    clock.now = 0.0
    exchange_seconds(clock.engine("fast", checkpoint, EngineLimits(max_sequences=1), 0.25, 0.0), clock=clock, seconds=3)
    assert clock.now == 2 * (0.25 + 1.0)


@pytest.mark.parametrize("changed", ["digest", "processor", "version"])
def test_timings_are_of_one_model_machine_and_set_of_versions(
    opened: Any, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    """What was timed under other circumstances is not found."""
    loaders, checkpoint = installed_loaders(only("slow", "fast")), tiny_checkpoint("llama")
    kept = KeptTimings(tmp_path / "kept")
    kept.add(checkpoint, loaders, Timings({"b": 1.0, "a": 2.0}))
    assert kept.find(checkpoint, loaders) == Timings({"b": 1.0, "a": 2.0})
    if changed == "digest":
        checkpoint = tiny_checkpoint("qwen2")
    elif changed == "processor":
        monkeypatch.setattr(loader_timing, "processor", lambda: "another")
    else:
        loaders = loaders[:1]
    assert kept.find(checkpoint, loaders) is None


def test_a_damaged_file_counts_as_not_timed(opened: Any, tmp_path: Path) -> None:
    """Whatever is in it."""
    loaders, checkpoint, kept = installed_loaders(only("slow", "fast")), tiny_checkpoint("llama"), KeptTimings(tmp_path / "kept")
    kept.add(checkpoint, loaders, Timings({"a": 2.0}))
    (path,) = (tmp_path / "kept").iterdir()
    for text in ("", "[]", "{}", '{"a": "x"}', '{"a": null}', "[" * 100_000):
        path.write_text(text, encoding="utf-8")
        assert kept.find(checkpoint, loaders) is None
