"""Reports as plain data, and how figures are shown."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import pytest

from llmasos_hookspecs import Figure, Measurement, RequestError, Section, SuiteResult, figure_columns, figure_table, results_to_dict
from llmasos_hookspecs.short_form import read_component


def result(**values: float) -> SuiteResult:
    return SuiteResult(figures=tuple(Figure(name=name, value=value) for name, value in values.items()), facts={"count": 3})


@pytest.mark.parametrize(
    ("figure", "heading", "cell"),
    [
        (Figure(name="x", value=1.234, error=0.1), "x", "1.23 ± 0.10"),
        (Figure(name="x", title="X", value=1.234, unit="nats", digits=1), "X (nats)", "1.2"),
        (Figure(name="x", value=12_345_678, unit="B", digits=1), "x", "12.3 MB"),
        (Figure(name="x", value=0.9625, error=0.01, unit="share", digits=1), "x", "96.2 % ± 1.0 %"),
    ],
)
def test_a_figure_is_shown_with_its_unit_once(figure: Figure, heading: str, cell: str) -> None:
    """In the head of a column, or in its cells: bytes in megabytes, shares in per cent."""
    assert (figure.heading, str(figure)) == (heading, cell)


def test_a_measurement_has_its_values_as_attributes() -> None:
    """Figures, standard errors and facts of each suite; what is not there is told with what is."""
    figure = Figure(name="x", value=1.0, error=0.5)
    found = Measurement(results={"s": SuiteResult(figures=(figure,), facts={"count": 3})}, backend="b 1.0", dtype="float32")
    assert (found.s.x, found.s.x_error, found.s.count) == (1.0, 0.5, 3)
    assert found.to_dict() == {"s": {"x": 1.0, "x_error": 0.5, "count": 3}, "backend": "b 1.0", "dtype": "float32"}
    with pytest.raises(AttributeError, match="The suite t did not measure the model; those that did are s"):
        _ = found.t
    with pytest.raises(AttributeError, match="no value y; it has x, x_error, count"):
        _ = found.s.y
    assert copy.deepcopy(found) == pickle.loads(pickle.dumps(found)) == found


def test_models_stand_in_one_table() -> None:
    """A figure that a model lacks is empty; the suite's name is in a heading only where it is needed."""
    models = {"a": {"s": result(x=1.0)}, "b": {"s": result(x=2.0, y=3.0), "t": result(x=4.0)}}
    headings, rows = figure_table(models)
    assert headings == ("model", "s: x", "y", "t: x")
    assert rows == (("a", "1.00", "", ""), ("b", "2.00", "3.00", "4.00"))
    assert figure_columns([]) == ()


def test_all_that_is_known_of_figures_is_plain_data() -> None:
    """For JSON, by suite and name."""
    found = results_to_dict({"s": result(x=1.0)})
    assert json.loads(json.dumps(found)) == found
    assert found["s"]["figures"]["x"]["better"] is None
    assert found["s"]["facts"] == {"count": 3}


def test_a_component_and_its_options_are_read_from_one_word() -> None:
    """Values are JSON where they can be; a distribution may stand before the name."""
    assert read_component("quant:bits=4,method=gptq", "") == ("quant", {"bits": 4, "method": "gptq"})
    assert read_component("mine:quant:bits=4", "") == ("mine:quant", {"bits": 4})
    assert read_component("mine:quant", "") == ("mine:quant", {})
    assert read_component("quant", "") == ("quant", {})
    with pytest.raises(RequestError, match=r'has "b", and options have the form name=value, as in A:b=1\.'):
        read_component("quant:a=1,b", "A:b=1")


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"rows": (("a", 1.5),)}, "the section 'Loss' has 1.5 where text belongs"),
        ({"text": None}, "the section 'Loss' has None where text belongs"),
        ({"bars": {"a": 1.5}}, "the bar 'a' is 1.5 instead of a value and its standard error"),
        ({"bars": {"a": ("high", 0.0)}}, "the bar 'a' is ('high', 0.0) instead of a value and its standard error"),
        ({"lines": {"a": [(0, 1), (2,)]}}, "the line 'a' has (2,) instead of a point (x, y)"),
        ({"lines": {1: []}}, "a line is called 1 instead of by a text"),
    ],
    ids=str,
)
def test_a_section_that_cannot_be_drawn_is_not_made(fields: dict[str, Any], sentence: str) -> None:
    """Its maker hears of it, and not who draws it."""
    with pytest.raises(TypeError) as caught:
        Section(title="Loss", **fields)
    assert str(caught.value) == sentence
