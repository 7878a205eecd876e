"""Config files of any content, mappings and overrides of any values."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import strategies as st

from llmasos_config import Config, load_config

SECTIONS = ["model", "models", "accelerate", "loader", "scheduler", "resources", "tasks", "observers", "seed", "offline", "x"]
KEYS = ["use", "source", "memory", "threads", "context_length", "loader", "allow_pickle", "default"]
TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
VALUES = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | TEXT | st.dates() | st.datetimes() | st.times(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | TEXT, inner, max_size=3),
    max_leaves=10,
)


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No config but that of the case."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLMASOS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("LLMASOS_CONFIG", raising=False)


def test_mappings_of_any_values(fuzz, tmp_path: Path) -> None:
    """What is taken is written and read the same."""

    def case(mapping, contained) -> None:
        with contained:
            config = Config.from_mapping(mapping)
            assert Config.from_mapping(config.to_mapping()) == config

    fuzz(case, st.dictionaries(st.sampled_from(SECTIONS), VALUES, max_size=4), folder=tmp_path, share=1 / 3)


def test_files_of_any_bytes(fuzz, tmp_path: Path) -> None:
    path = tmp_path / "fuzz.toml"

    def case(content, contained) -> None:
        path.write_bytes(content)
        with contained:
            load_config(path)

    toml = st.text("[]model.=\"'{}#\n use1", max_size=60).map(str.encode)
    fuzz(case, st.binary(max_size=80) | st.text(max_size=80).map(str.encode) | toml, folder=tmp_path, share=1 / 3)


def test_overrides_of_any_text(fuzz, tmp_path: Path) -> None:
    def case(override, contained) -> None:
        with contained:
            load_config(overrides=[override])

    fuzz(case, st.text("abc.[]0123=\"'model useaccelerate", max_size=24), folder=tmp_path, share=1 / 3)
