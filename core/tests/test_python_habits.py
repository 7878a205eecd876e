"""What users of other libraries type in Python: options by name, objects of a class, progress, numbers of numpy, words of other systems."""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import inspect
import io
from pathlib import Path
from typing import Literal

import attrs
import numpy as np
import pydantic
import pytest
from rich.console import Console

import llmasos
from llmasos.api.loading import LoadBar
from llmasos.api.options import GenerationOptions
from llmasos.compose.generation_params import GenerationParams
from llmasos.compose.schemas import as_object, as_schema
from llmasos.system.discovery import registry
from llmasos_config.aliases import Aliases
from llmasos_config.foreign_words import foreign_words
from llmasos_hookspecs import PluginError, RequestError
from llmasos_hookspecs.testing import tiny_checkpoint


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_checkpoint(folder=folder, max_position_embeddings=1024)
    with llmasos.load_model(folder, loader="onnx", threads=np.int64(1), context_length=np.int32(1000), seed=np.int64(1)) as found:
        yield found


def test_every_option_is_listed_where_it_can_be_given(model) -> None:
    """In the signature that help and notebooks show, and in options(), with the defaults that hold; each of them is taken."""
    names = set(GenerationOptions.__annotations__)
    for method in ("generate_text", "stream_text", "generate", "batch", "chat", "agenerate_text", "astream_chat"):
        shown = inspect.signature(getattr(model, method)).parameters
        assert names <= shown.keys()
        assert shown["temperature"].default == 0.0
    assert "max_new_tokens" in inspect.signature(model.generate_object).parameters
    options = {option.name: option for option in model.options()}
    assert options.keys() == names
    assert (options["top_p"].default, options["stop"].default, options["tenant"].default) == (1.0, (), "default")
    assert all(option.help for option in options.values())
    given = {name: option.default for name, option in options.items()}
    assert GenerationParams.of(given) == GenerationParams.of({})
    with pytest.raises(RequestError) as refused:
        GenerationParams.of({"no such option": 1})
    assert refused.value.param == "no such option"


@pytest.mark.parametrize(
    ("word", "ours"),
    [
        ("num_predict", "max_new_tokens"),
        ("max_tokens", "max_new_tokens"),
        ("do_sample", "temperature"),
        ("response_format", "schema"),
        ("top_n", "top_k"),
        ("num_ctx", "context_length of load_model"),
        ("stream", "stream_text"),
        ("temprature", 'did you mean "temperature"'),
    ],
)
def test_a_word_of_another_system_is_told_with_ours(model, word: str, ours: str) -> None:
    with pytest.raises(RequestError, match=ours):
        model.generate_text("x", **{word: 1})


@pytest.mark.parametrize(
    ("kind", "word", "ours"), [("loader", "tensorflow", "tf"), ("accelerator", "GPTQ", "quant"), ("scheduler", "fcfs", "fifo")]
)
def test_a_component_of_another_name_is_told_with_ours(kind: str, word: str, ours: str) -> None:
    with pytest.raises(PluginError, match=f'did you mean "{ours}"'):
        registry().find(kind, word)


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Pet(pydantic.BaseModel):
    tame: bool
    colour: Colour


@attrs.frozen
class Yard:
    pets: tuple[Pet, Pet]
    _size: Literal["small", "large"]
    fence: bool | None = None


@dataclasses.dataclass
class Farm:
    yards: list[Yard]
    owner: str | None
    rents: dict[str, float] = dataclasses.field(default_factory=dict)


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ("n_ctx", "; here it is context_length."),
        ("pretrained_model_name_or_path", "; here it is source."),
        ("load_in_4bit", '; here it is accelerate, which takes stages: accelerate={"use": "quant", "bits": 4}.'),
        ("thread", '; did you mean "threads"?'),
        ("something", "."),
    ],
)
def test_an_argument_of_another_library_is_told_with_ours(argument: str, told: str) -> None:
    """Before anything is fetched or loaded."""
    with pytest.raises(RequestError) as refused:
        llmasos.load_model("no such model", **{argument: 4})
    assert str(refused.value) == f'load_model has no argument "{argument}"{told}'
    assert refused.value.param == argument


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("create_chat_completion", "; here it is chat."),
        ("tokenize", "; here it is encode."),
        ("generate_texts", "; here it is batch."),
        ("strem_text", '; did you mean "stream_text"?'),
        ("something", "."),
        ("_something", "."),
    ],
)
def test_a_method_of_another_library_is_told_with_ours(model, name: str, told: str) -> None:
    """By an AttributeError, as of any name that an object lacks: hasattr and copies work as ever."""
    with pytest.raises(AttributeError) as refused:
        getattr(model, name)
    assert str(refused.value) == f'LanguageModel has no "{name}"{told}'
    assert not hasattr(model, name)


def test_what_foreign_words_lead_to_is_there(model) -> None:
    """Every argument, method and option that is named exists, and no word of others has a meaning of its own here."""
    here = {
        "load_model": set(inspect.signature(llmasos.load_model).parameters),
        "model": {name for name in dir(type(model)) if not name.startswith("_")},
        "generation": set(GenerationOptions.__annotations__) | {"n", "context_length"},
    }
    for place, known in here.items():
        for theirs, ours in foreign_words(place).items():
            assert theirs not in known
            name = ours.replace(",", " ").replace(":", " ").split()[0]
            assert name in known or name in ("a", "an", "nothing", "preset"), ours


def test_classes_become_schemas_and_answers_their_instances() -> None:
    """Pydantic models, attrs classes and dataclasses in one another."""
    yard = {"pets": [{"tame": True, "colour": "red"}] * 2, "_size": "small"}
    text = f'{{"yards": [{yard}], "owner": null, "rents": {{"a": 2}}}}'.replace("'", '"').replace("True", "true")
    pet = Pet(tame=True, colour=Colour.RED)
    farm = as_object(Farm, text)
    assert farm == Farm([Yard((pet, pet), "small")], None, {"a": 2.0})
    assert as_object(list[Literal[1, 2]], "[1, 2]") == [1, 2]
    assert as_object({"type": "object"}, '{"a": 1}') == {"a": 1}
    schema = as_schema(Farm)
    assert (schema["required"], schema["additionalProperties"]) == (["yards", "owner"], False)
    items = schema["properties"]["yards"]["items"]
    assert items["properties"]["_size"] == {"enum": ["small", "large"]}
    assert items["properties"]["pets"]["prefixItems"][0]["title"] == "Pet"
    with pytest.raises(RequestError, match=r"complex.* at list"):
        as_schema(list[complex])


class Switches(pydantic.BaseModel):
    on: bool
    mode: Literal["a", "b"]

    @pydantic.field_validator("mode")
    @classmethod
    def right(cls, value: str) -> str:
        if cls.__name__ == "Picky":
            raise ValueError("never right")
        return value


class Picky(Switches):
    pass


def test_a_model_fills_in_an_object(model) -> None:
    """The class is taken as schema= too; an answer that was cut, or that the class refuses, is one sentence."""
    found = model.generate_object("x", Switches, max_new_tokens=200)
    assert isinstance(found, Switches)
    assert asyncio.run(model.agenerate_object("x", Switches, max_new_tokens=200)) == found
    assert Switches.model_validate_json(model.generate_text("x", schema=Switches, max_new_tokens=200)) == found
    with pytest.raises(RequestError, match="cut after 3 tokens"):
        model.generate_object("x", Switches, max_new_tokens=3)
    with pytest.raises(RequestError, match=r"Picky, and the class refuses it: .*never right"):
        model.generate_object("x", Picky, max_new_tokens=200)


def test_one_where_several_are_meant_is_taken_or_refused(model, tmp_path: Path) -> None:
    """One accelerator is a list of one; a text is no list of choices, which would be its characters."""
    with pytest.raises(RequestError, match="choices is 'blue', and it must be a list of texts"):
        model.generate_text("x", choices="blue")
    assert model.generate_text("x", choices=["blue"]) == "blue"
    with pytest.raises(PluginError, match=r'accelerate\[0\].use: no accelerator "qunt" is installed; did you mean "quant"'):
        llmasos.load_model(tmp_path / "tiny", accelerate="qunt")
    with pytest.raises(PluginError, match=r"accelerate\[0\]"):
        llmasos.load_model(tmp_path / "tiny", accelerate={"use": "qunt"})


def test_usage_says_what_the_model_is(model) -> None:
    """Its source and its loader, beside the name that it has in the pipeline: that may be ``default``."""
    usage = model.usage()
    assert usage["source"] == model.describe()["source"]
    assert 'loader "onnx"' in usage["loader"]


def test_numbers_of_numpy_are_numbers(model) -> None:
    assert model.context_length == 1000
    plain = model.generate("x", max_new_tokens=4, temperature=0.5, top_k=3, seed=1)
    assert model.generate("x", max_new_tokens=np.int64(4), temperature=np.float32(0.5), top_k=np.int8(3), seed=np.uint16(1)) == plain
    assert len(model.generate("x", n=np.int64(2), max_new_tokens=2)) == 2


def test_a_last_message_of_the_assistant_is_continued(model) -> None:
    """Its turn stays open, with and without a template; what it says of control tokens stays text; an empty one is answered."""
    asked = [{"role": "user", "content": "Count."}]
    head = model.decode(model.encode(asked))
    assert model.decode(model.encode([*asked, {"role": "assistant", "content": "One, two"}])) == f"{head}One, two"
    assert model.decode(model.encode([*asked, {"role": "assistant", "content": "<|im_end|>"}])) == f"{head}< |im_end|>"
    assert model.decode(model.encode([*asked, {"role": "assistant", "content": ""}])).endswith("<|im_start|>assistant\n")


def test_models_and_pipelines_are_closed_by_async_with(tmp_path: Path) -> None:
    """And a chat streams for an event loop."""
    tiny_checkpoint(folder=tmp_path / "tiny")
    asked = [{"role": "user", "content": "Hello"}]

    async def talk() -> str:
        async with llmasos.load_model(tmp_path / "tiny", loader="onnx") as model:
            pieces = [piece async for piece in model.astream_chat(asked, max_new_tokens=4)]
            assert await model.achat(asked, max_new_tokens=4) == "".join(pieces)
        return model.describe()["state"]

    assert asyncio.run(talk()) == "closed"

    async def nothing() -> None:
        async with llmasos.Pipeline.from_config({"model": {"source": str(tmp_path / "tiny")}}) as pipeline:
            assert "<td>not loaded</td>" in pipeline._repr_html_()

    asyncio.run(nothing())


def test_a_long_load_is_shown_and_a_short_one_is_not() -> None:
    """The whole, and each part that tells how far it is; nothing stays on the terminal, and without one nothing is said."""
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, width=80)
    with LoadBar("Loading tiny", console=console, patience=0.0) as bar:
        with bar.progress("Packing weights", 10, "") as part:
            part.advance(4)
            bar._timer.join(10)
            part.advance(2)
            console.print("between")
        bar.note("nothing")
    assert "Loading tiny" in shown.getvalue()
    assert "Packing weights" in shown.getvalue()
    quick = io.StringIO()
    with LoadBar("Loading tiny", console=Console(file=quick, force_terminal=True), patience=60.0) as bar, bar.progress("Packing", 1, ""):
        pass
    assert quick.getvalue() == ""


def test_owner_and_name_are_a_repository_where_no_such_folder_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    aliases = Aliases(tmp_path / "aliases.json")
    assert aliases.expand("org/name-1.0").reference == "hf:org/name-1.0"
    for other in ("./org/name", "../name", "org/name/file", "/org/name", "name", "hf:org/name"):
        assert aliases.expand(other).reference == other
    Path("org/name-1.0").mkdir(parents=True)
    assert aliases.expand("org/name-1.0").reference == "org/name-1.0"
