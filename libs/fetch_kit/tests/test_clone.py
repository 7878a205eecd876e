"""Packages of a clone are installed from its folders, with what they require of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmasos_fetch_kit.clone import arguments_for, clone, cloned, in_this_clone, packages_below

ROOT = Path(__file__).parents[3]


@pytest.fixture
def packages(tmp_path: Path):
    """A clone with a plugin that needs a lib, which needs another; the contract is installed already."""
    requires = {
        "hookspecs": ("llmasos-hookspecs", []),
        "libs/one_kit": ("llmasos-one-kit", ["llmasos-hookspecs>=0.2", "llmasos-two-kit[extra]~=1.0", "attrs"]),
        "libs/two_kit": ("llmasos-two-kit", ["llmasos_one.kit"]),
        "plugins/backend_mine": ("llmasos-backend-mine", ["llmasos-one-kit>=0.1,<0.2"]),
    }
    for folder, (name, needed) in requires.items():
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "pyproject.toml").write_text(f'[project]\nname = "{name}"\ndependencies = {needed}\n')
    (tmp_path / "plugins" / "broken").mkdir()
    (tmp_path / "plugins" / "broken" / "pyproject.toml").write_text("[project")
    return packages_below(tmp_path)


@pytest.mark.parametrize("word", ["backend-mine", "backend_mine", "llmasos-backend-mine", "LLMasOS_Backend.Mine"])
def test_a_package_is_installed_with_what_it_lacks(tmp_path: Path, packages, word: str) -> None:
    """Its folder, and those of libs that are not installed, each once; by any spelling of its name."""
    folders = ["plugins/backend_mine", "libs/one_kit", "libs/two_kit"]
    assert arguments_for(word, packages) == [part for folder in folders for part in ("--editable", str(tmp_path / folder))]


@pytest.mark.parametrize("word", ["numpy", "hookspecs", "./plugins/backend_mine", "plugins/backend_mine", "broken", "backend"])
def test_everything_else_is_left_to_pip(packages, word: str) -> None:
    """What is no package of the clone, a path, and what is installed."""
    assert arguments_for(word, packages) == []


def test_an_error_says_what_works_in_a_clone(packages) -> None:
    """Behind the sentence that names a package of the clone, and nowhere else."""
    said = in_this_clone("The loader is not installed; pip install llmasos-backend-mine.", packages)
    assert said.startswith("The loader is not installed; pip install llmasos-backend-mine. In this clone: ")
    assert said.endswith("llmasos plugins install backend-mine")
    for other in ("No; pip install llmasos-other.", "No; pip install torch.", "Nothing at all."):
        assert in_this_clone(other, packages) == other
        assert in_this_clone(said, {}) == said


@pytest.mark.skipif(not clone(), reason="core is not installed from a clone here")
def test_this_repository_is_read_as_one() -> None:
    """Every package of it, by the name of its folder."""
    names = [path.parent.name for kind in ("libs", "plugins") for path in ROOT.glob(f"{kind}/*/pyproject.toml")]
    assert [name for name in names if cloned(name, clone()) is None] == []
