"""What the user of a plugin reads that was built for another version of the contract."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from llmasos_hookspecs import API_VERSION

ROOT = Path(__file__).resolve().parents[2]
HOOKSPECS = tomllib.loads((ROOT / "hookspecs" / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
#: What every package requires of the contract.
RANGE = f"llmasos-hookspecs>=0.{API_VERSION},<0.{API_VERSION + 1}"

IMPORTED = "raise RuntimeError('imported')"


def words(text: str) -> str:
    return " ".join(text.split())


def test_the_contracts_version_is_the_minor_version_of_its_distribution() -> None:
    """``API_VERSION`` N belongs to llmasos-hookspecs 0.N, so that a range of versions says which contract a plugin is for."""
    assert HOOKSPECS.split(".")[:2] == ["0", str(API_VERSION)]


@pytest.mark.parametrize(
    "path",
    [
        *(path for pattern in ("core", "libs/*", "plugins/*", "examples/*") for path in ROOT.glob(f"{pattern}/pyproject.toml")),
        *ROOT.glob("core/src/llmasos/templates/common/pyproject.toml.template"),
    ],
    ids=lambda path: str(path.parent.relative_to(ROOT)),
)
def test_every_package_requires_the_same_range_of_the_contract(path: Path) -> None:
    """Not one version: a release that only adds to the contract needs no release of any plugin."""
    text = path.read_text(encoding="utf-8")
    assert text.count("llmasos-hookspecs") == text.count(RANGE) + text.count(RANGE.replace("hookspecs>", "hookspecs[testing]>")) > 0


@pytest.mark.wheels
def test_the_user_of_a_plugin_for_an_older_contract_reads_what_to_do(environment, make_wheel, checkpoint) -> None:
    """One sentence, in the list and where config names the plugin; the plugin is not imported, and the others work."""
    wheel = make_wheel("made-up", "scheduler", "made", IMPORTED, version="4.2", requires=("llmasos-hookspecs>=0.1,<0.2",))
    said = (
        f"is built for an older LLMasOS (it requires llmasos-hookspecs<0.2,>=0.1), and this one has llmasos-hookspecs {HOOKSPECS}; "
        "pip install --upgrade made-up, or, where that brings no other version, ask its author for one: the page docs/compatibility.md of "
        "LLMasOS tells authors what to change."
    )
    with environment.with_wheels(wheel):
        listed = environment.listed()
        assert f"made-up 4.2 {said}" in listed["problems"]
        assert ("scheduler", "made") in {(each["kind"], each["name"]) for each in listed["components"]}
        where = ("--set", "scheduler.use=made", "--set", f"model.source={checkpoint}")
        checked = environment.llmasos("config", "check", *where)
        assert checked.returncode == 2
        assert f'the scheduler "made" (made-up 4.2) {said}' in words(checked.stdout + checked.stderr)
        shown = environment.llmasos("plugins", "show", "made")
        assert said in words(shown.stdout + shown.stderr)
        assert "imported" not in checked.stderr + shown.stderr
        assert environment.llmasos("models", "list").returncode == 0


@pytest.mark.wheels
def test_installing_a_plugin_never_replaces_the_contract_by_one_that_core_cannot_run_with(
    environment, wheels, make_wheel, monkeypatch
) -> None:
    """pip alone would take the older contract for the plugin's sake, and break every other plugin."""
    older = make_wheel("llmasos-hookspecs", "scheduler", "older", IMPORTED, version="0.1.0", requires=())
    wheel = make_wheel("made-up", "scheduler", "made", IMPORTED, version="4.2", requires=("llmasos-hookspecs>=0.1,<0.2",))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(older.parent))
    with environment.with_wheels(wheels["llmasos-command-plugins"]):
        done = environment.llmasos("plugins", "install", str(wheel), "--yes")
        assert done.returncode == 1
        assert words(done.stderr).endswith(
            f"made-up 4.2 would replace llmasos-hookspecs {HOOKSPECS} by 0.1.0, and LLMasOS needs llmasos-hookspecs<0.3,>=0.2; nothing was "
            "changed. Install a version of it that is built for this LLMasOS."
        )
        assert "made" not in {each["name"] for each in environment.listed()["components"]}
