"""Options are read strictly, every problem has its path and its cure, and what was read is written back the same."""

from __future__ import annotations

import enum
import json
from pathlib import Path
from typing import Annotated, Any, Literal, NewType

import attrs
import pytest
from hypothesis import given, strategies as st

from llmasos_hookspecs import ConfigError, PluginError
from llmasos_hookspecs.sizes import parse_size, size_in_words
from llmasos_options import describe, find_problems, json_schema, render_help, structure_options, unstructure


class Mode(enum.Enum):
    FAST = "fast"
    EXACT = "exact"


Count = NewType("Count", int)


@attrs.frozen
class Inner:
    x: int = 0
    weights: list[float] = attrs.field(factory=list)


def _even(instance: Any, attribute: attrs.Attribute[Any], value: int) -> None:
    if value % 2:
        raise ValueError("it must be even")


@attrs.frozen(kw_only=True)
class Options:
    bits: int = attrs.field(default=4, validator=attrs.validators.in_((2, 4, 8)), metadata={"help": "Bits a weight."})
    group: int | None = attrs.field(default=None, validator=attrs.validators.optional(attrs.validators.ge(1)))
    method: Literal["rtn", "gptq"] = "rtn"
    mode: Mode = Mode.FAST
    inner: Inner = attrs.field(factory=Inner)
    inners: tuple[Inner, ...] = ()
    bias: dict[int, float] = attrs.field(factory=dict)
    either: int | str | list[int] = 0
    path: Path | None = None
    memory: int | None = attrs.field(default=None, converter=attrs.converters.optional(parse_size))
    layout: str = attrs.field(default="row", metadata={"choices": ("row", "column")})
    rate: float = 1.0
    pair: tuple[int, str] = (1, "a")
    names: frozenset[str] = frozenset()
    count: Annotated[Count, "whatever"] = Count(2)
    even: int = attrs.field(default=2, validator=_even)
    anything: Any = None
    flag: bool = False


def problem(options: dict[str, Any], cls: type = Options) -> ConfigError:
    (found,) = find_problems(cls, options, "accelerate[1]")
    return found


def test_every_kind_of_value_is_read():
    read = structure_options(
        Options,
        {
            "bits": 8,
            "group": 32,
            "method": "gptq",
            "mode": "exact",
            "inner": {"x": 1},
            "inners": [{"weights": [1, 2.5]}],
            "bias": {"3": 1},
            "either": [1],
            "path": "/models",
            "memory": "6GiB",
            "layout": "column",
            "rate": 3,
            "pair": [2, "b"],
            "names": ["b", "a"],
            "count": 7,
            "even": 4,
            "anything": {"a": [1]},
            "flag": True,
        },
    )
    assert read == Options(
        bits=8,
        group=32,
        method="gptq",
        mode=Mode.EXACT,
        inner=Inner(1),
        inners=(Inner(0, [1.0, 2.5]),),
        bias={3: 1.0},
        either=[1],
        path=Path("/models"),
        memory=6 << 30,
        layout="column",
        rate=3.0,
        pair=(2, "b"),
        names=frozenset("ab"),
        count=Count(7),
        even=4,
        anything={"a": [1]},
        flag=True,
    )
    assert isinstance(read.rate, float)


@pytest.mark.parametrize(
    ("options", "path", "said"),
    [
        ({"bit": 1}, "bit", 'accelerate[1].bit is unknown; did you mean "bits"? Known here: bits,'),
        ({"bits": "4"}, "bits", 'accelerate[1].bits is "4", a string, and it must be a whole number.'),
        ({"bits": True}, "bits", "accelerate[1].bits is true, and it must be a whole number."),
        ({"bits": 4.0}, "bits", "accelerate[1].bits is 4.0, a number, and it must be a whole number."),
        ({"bits": 5}, "bits", "accelerate[1].bits is 5, and it must be one of 2, 4, 8."),
        ({"group": 0}, "group", "accelerate[1].group is 0, and it must be a whole number >= 1."),
        ({"method": "gptx"}, "method", 'accelerate[1].method is "gptx", and it must be one of "rtn", "gptq"; did you mean "gptq"?'),
        ({"mode": "exakt"}, "mode", 'accelerate[1].mode is "exakt", and it must be one of "fast", "exact"; did you mean "exact"?'),
        ({"inner": {"y": 1}}, "inner.y", "accelerate[1].inner.y is unknown; known here: x, weights."),
        ({"inner": 3}, "inner", "accelerate[1].inner is 3, a whole number, and it must be a table."),
        ({"inners": [{}, {"weights": [1, "2"]}]}, "inners[1].weights[1]", '"2", a string, and it must be a number.'),
        ({"inners": {"x": 1}}, "inners", "accelerate[1].inners is a table, and it must be a list whose items are each a table."),
        ({"bias": {"a": 1}}, "bias", 'accelerate[1].bias has the key "a", and its keys must be whole numbers.'),
        ({"either": 1.5}, "either", "must be a whole number or a string or a list whose items are each a whole number."),
        ({"either": ["a"]}, "either[0]", 'accelerate[1].either[0] is "a", a string, and it must be a whole number.'),
        ({"path": 3}, "path", "accelerate[1].path is 3, a whole number, and it must be a path."),
        ({"memory": "6 apples"}, "memory", "'6 apples' is no amount of memory"),
        ({"layout": "colum"}, "layout", 'it must be one of "row", "column"; did you mean "column"?'),
        ({"rate": "1"}, "rate", 'accelerate[1].rate is "1", a string, and it must be a number.'),
        ({"rate": True}, "rate", "accelerate[1].rate is true, and it must be a number."),
        ({"pair": [1]}, "pair", "accelerate[1].pair is [1], and it must be a list of 2: a whole number, a string."),
        ({"pair": "ab"}, "pair", 'accelerate[1].pair is "ab", a string, and it must be a list of 2'),
        ({"names": "abc"}, "names", "it must be a list whose items are each a string."),
        ({"names": [["a"]]}, "names[0]", "accelerate[1].names[0] is"),
        ({"count": "1"}, "count", "must be a whole number"),
        ({"even": 3}, "even", "accelerate[1].even is 3, which is not accepted: it must be even."),
        ({"flag": 1}, "flag", "accelerate[1].flag is 1, a whole number, and it must be true or false."),
    ],
)
def test_each_wrong_value_is_refused_with_its_path_what_is_allowed_and_the_nearest_name(options, path, said):
    found = problem(options)
    assert found.path == f"accelerate[1].{path}"
    assert said in str(found)


def test_all_problems_are_found_at_once_and_one_error_says_them_all():
    wrong = {"bits": 5, "rate": "x", "nothing": 1}
    found = find_problems(Options, wrong, "loader")
    assert {each.path for each in found} == {"loader.bits", "loader.rate", "loader.nothing"}
    with pytest.raises(ConfigError) as caught:
        structure_options(Options, wrong, "loader")
    assert caught.value.path == found[0].path
    assert all(str(each) in str(caught.value) for each in found)


def test_a_required_option_that_is_missing_is_named():
    @attrs.frozen
    class Needs:
        teacher: str

    found = problem({}, Needs)
    assert str(found) == "accelerate[1].teacher must be set, to a string."


def test_what_a_plugins_own_code_raises_for_a_value_is_a_config_error():
    def explode(instance, attribute, value):
        raise KeyError("odd")

    @attrs.frozen
    class Odd:
        a: int = attrs.field(default=1, validator=explode)

    assert problem({"a": 2}, Odd).path == "accelerate[1].a"


def test_a_refused_field_is_named_however_its_validator_is_written():
    class Below:
        """Compares with another field, which has a converter and a default that its factory makes of the instance."""

        def __call__(self, *arguments):
            if arguments[2] >= arguments[0].most:
                raise ValueError("it must be below most")

    @attrs.frozen
    class Bounds:
        least: int = attrs.field(default=0, validator=Below())
        most: int = attrs.field(
            default=attrs.Factory(lambda bounds: str(8 - bounds.least), takes_self=True), converter=attrs.Converter(int)
        )

    found = problem({"least": 9}, Bounds)
    assert found.path == "accelerate[1].least"
    assert str(found) == "accelerate[1].least is 9, which is not accepted: it must be below most."


def test_an_annotation_that_cannot_be_resolved_is_a_fault_of_the_plugin():
    broken = attrs.make_class("Broken", {"a": attrs.field(type="NoSuchType", default=1)})
    broken.__annotations__ = {"a": "NoSuchType"}
    with pytest.raises(PluginError, match="NoSuchType"):
        find_problems(broken, {"a": 1}, "loader")


def test_help_names_each_option_with_what_it_may_be_its_default_and_its_sentence():
    text = render_help(Options)
    assert "bits      one of 2, 4, 8 (default: 4). Bits a weight." in text
    assert "group     a whole number >= 1 (default: none)." in text
    assert len(text.splitlines()) == len(describe(Options)) == len(attrs.fields(Options))


def test_the_schema_takes_what_structuring_takes():
    schema = json_schema(Options)
    assert schema["properties"]["bits"] == {"enum": [2, 4, 8], "description": "Bits a weight.", "default": 4}
    assert schema["properties"]["group"] == {"type": "integer", "minimum": 1}
    assert schema["properties"]["inners"]["items"]["properties"]["x"] == {"type": "integer", "default": 0}
    assert schema["properties"]["either"]["anyOf"] == [
        {"type": "integer"},
        {"type": "string"},
        {"type": "array", "items": {"type": "integer"}},
    ]
    assert schema["additionalProperties"] is False
    json.dumps(schema)


options = st.builds(
    Options,
    bits=st.sampled_from((2, 4, 8)),
    group=st.none() | st.integers(1, 99),
    method=st.sampled_from(("rtn", "gptq")),
    mode=st.sampled_from(Mode),
    inner=st.builds(Inner, x=st.integers(), weights=st.lists(st.floats(allow_nan=False))),
    inners=st.lists(st.builds(Inner, x=st.integers()), max_size=3).map(tuple),
    bias=st.dictionaries(st.integers(), st.floats(allow_nan=False), max_size=3),
    either=st.integers() | st.text() | st.lists(st.integers()),
    path=st.none() | st.just(Path("/a/b")),
    memory=st.none() | st.integers(1, 1 << 50),
    layout=st.sampled_from(("row", "column")),
    rate=st.floats(allow_nan=False),
    pair=st.tuples(st.integers(), st.text()),
    names=st.frozensets(st.text()),
    even=st.integers().map(lambda value: 2 * value),
    flag=st.booleans(),
)


@given(options)
def test_options_are_the_same_after_writing_and_reading(made):
    plain = unstructure(made)
    assert structure_options(Options, plain) == made
    assert structure_options(Options, {key: value for key, value in plain.items() if value is not None}) == made


plain_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
keys = st.sampled_from([field.name for field in attrs.fields(Options)]) | st.text(max_size=6)


@given(st.dictionaries(keys, plain_values, max_size=5))
def test_whatever_is_written_is_read_or_refused_with_a_path_and_nothing_else(mapping):
    found = find_problems(Options, mapping, "loader")
    assert all(each.path.startswith("loader.") and str(each) and "\n" not in str(each) for each in found)
    if not found:
        assert isinstance(structure_options(Options, mapping, "loader"), Options)


@pytest.mark.parametrize(
    ("text", "size"), [("6GiB", 6 << 30), ("500MB", 500_000_000), ("1.5 kib", 1536), (17, 17), ("17", 17), ("2 tb", 2 * 10**12)]
)
def test_sizes_are_read(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "6 gigs", "-1", "0", 0, -3, True, 1.5, "1e3", "６GiB"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ConfigError, match="no amount of memory"):
        parse_size(text)


def test_sizes_are_written_for_people():
    assert [size_in_words(size) for size in (12, 99 << 20, 3 << 40)] == ["12 B", "99.0 MiB", "3.0 TiB"]
