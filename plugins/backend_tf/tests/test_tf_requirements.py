"""Which distribution of TensorFlow is required where."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from llmasos_backend_tf.hooks import TENSORFLOW

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def required(machine: str | None = None) -> list[str]:
    environment = {} if machine is None else {"platform_machine": machine}
    found = [each for each in map(Requirement, PROJECT["dependencies"]) if each.name.startswith("tensorflow")]
    return [each.name for each in found if each.marker is None or each.marker.evaluate(environment)]


@pytest.mark.parametrize(
    ("machine", "name"), [("x86_64", "tensorflow-cpu"), ("AMD64", "tensorflow-cpu"), ("aarch64", "tensorflow"), ("arm64", "tensorflow")]
)
def test_a_processor_gets_the_build_of_tensorflow_that_has_wheels_for_it(machine: str, name: str) -> None:
    assert required(machine) == [name]


def test_the_component_names_the_distribution_that_the_package_requires() -> None:
    """An error of a missing framework says what to install here."""
    assert required() == [TENSORFLOW]
