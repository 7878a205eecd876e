"""Programs of torch.export: computed, and refused where they could run code."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from llmasos_backend_torch.exported.archive import _check_graph
from llmasos_backend_torch.exported.operators import OPERATORS
from llmasos_backend_torch.exported.pickles import makes_tensors_only
from llmasos_backend_torch.exported.program import Signature
from llmasos_backend_torch.exported.sizes import is_size
from llmasos_backend_torch.exported.trials import try_program
from llmasos_hookspecs import CheckpointError, ConfigError, Engine, LLMasOSError, Row, UnsupportedModel

pytestmark = pytest.mark.slow

Saved = Callable[[str], tuple[PreTrainedModel, Path]]
Load = Callable[..., Engine]


class Logits(nn.Module):
    """A decoder as people export it."""

    def __init__(self, model: Any, masked: bool = False) -> None:
        super().__init__()
        self.model = model
        self.masked = masked

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        logits: Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits
        return logits


def export(model: Any, path: Path, *, fixed: bool = False, masked: bool = False) -> Path:
    tokens = torch.zeros(1, 24, dtype=torch.int64)
    length = torch.export.Dim("length", min=2, max=64)
    given = (tokens, torch.ones_like(tokens)) if masked else (tokens,)
    shapes: dict[str, Any] = {"input_ids": {1: length}, **({"attention_mask": {1: length}} if masked else {})}
    torch.export.save(torch.export.export(Logits(model), given, dynamic_shapes=None if fixed else shapes), str(path))
    return path


@pytest.fixture(scope="module")
def shallow(saved: Saved) -> PreTrainedModel:
    """A decoder of one layer, which takes a third of the time to export."""
    model: Any = copy.deepcopy(saved("llama")[0])
    model.model.layers = model.model.layers[:1]
    model.config.num_hidden_layers = 1
    return model


class Attending(nn.Module):
    """A decoder of one layer that takes what those of transformers take, and is exported in a twentieth of the time."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.tokens, self.places, self.head = nn.Embedding(160, 16), nn.Embedding(512, 16), nn.Linear(16, 160)
        self.query, self.key, self.value = (nn.Linear(16, 16) for _ in range(3))

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, position_ids: Tensor | None = None, use_cache: bool = False
    ) -> CausalLMOutput:
        count = input_ids.shape[1]
        x = self.tokens(input_ids) + self.places(torch.arange(count)[None] if position_ids is None else position_ids)
        hidden = torch.ones(count, count).triu(1)[None] > 0
        if attention_mask is not None:
            hidden = hidden | (attention_mask[:, None] == 0)
        scores = (self.query(x) @ self.key(x).transpose(1, 2)).masked_fill(hidden, -1e9)
        return CausalLMOutput(logits=self.head(x + scores.softmax(-1) @ self.value(x)))


@pytest.fixture(scope="module", params=["small", pytest.param("llama", marks=pytest.mark.long)])
def decoder(request: pytest.FixtureRequest, saved: Saved) -> Any:
    """What is exported where it matters what is made of its inputs and outputs, and not how it computes."""
    return Attending().eval() if request.param == "small" else request.getfixturevalue("shallow")


@pytest.fixture(scope="module")
def program(decoder: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    return decoder, export(decoder, tmp_path_factory.mktemp("pt2") / "model.pt2")


def check(engine: Engine, model: PreTrainedModel) -> None:
    tokens = [int(token) for token in np.random.default_rng(1).integers(3, 160, 20)]
    with torch.inference_mode():
        wanted = model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0].numpy()
    slot, other = engine.open(), engine.open()
    first, beside = engine.step([Row(slot, tokens[:1], 0), Row(other, tokens[:9], 0, "all")])
    np.testing.assert_allclose(first, wanted[:1], atol=2e-3)
    np.testing.assert_allclose(beside, wanted[:9], atol=2e-3)
    engine.step([Row(slot, tokens[1:12], 1, "none")])
    engine.truncate(slot, 7)
    np.testing.assert_allclose(engine.step([Row(slot, tokens[7:], 7, "all")])[0], wanted[7:], atol=2e-3)
    copy = engine.fork(other)
    np.testing.assert_allclose(engine.step([Row(copy, tokens[9:10], 9)])[0], wanted[9:10], atol=2e-3)
    for each in (slot, other, copy):
        engine.close(each)


def test_any_length(shallow: PreTrainedModel, tmp_path: Path, load_engine: Load) -> None:
    """A program of any length gives the model's logits, and the engine says that it recomputes."""
    engine = load_engine(export(shallow, tmp_path / "model.pt2"))
    assert engine.info.context_length == 64
    assert engine.info.features == {"fork"}
    assert "no KV cache" in engine.info.notes[0]
    check(engine, shallow)


@pytest.mark.parametrize("masked", [pytest.param(False, marks=pytest.mark.long), True])
def test_fixed_length(masked: bool, decoder: Any, tmp_path: Path, load_engine: Load) -> None:
    """A program of one length takes shorter sequences, padded behind, with or without an attention mask."""
    engine = load_engine(export(decoder, tmp_path / "fixed.pt2", fixed=True, masked=masked))
    assert engine.info.context_length == 24
    check(engine, decoder)


class Form(nn.Module):
    """A decoder whose inputs have other names, orders and shapes."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def logits(self, tokens: Tensor, **given: Tensor) -> Tensor:
        logits: Tensor = self.model(input_ids=tokens, use_cache=False, **given).logits
        return logits


class Positions(Form):
    def forward(self, input_ids: Tensor, position_ids: Tensor) -> Tensor:
        return self.logits(input_ids, position_ids=position_ids)


class Keywords(Form):
    def forward(self, *, attention_mask: Tensor, input_ids: Tensor) -> dict[str, Tensor]:
        return {"logits": self.logits(input_ids, attention_mask=attention_mask)}


class Tokens(Form):
    def forward(self, sequence: Tensor) -> Tensor:
        return self.logits(sequence)


class LastOnly(Form):
    def forward(self, input_ids: Tensor) -> Tensor:
        return self.logits(input_ids)[:, -1]


class Uncausal(Form):
    def forward(self, input_ids: Tensor) -> Tensor:
        return self.logits(input_ids.flip(-1)).flip(1)


class Learned(nn.Module):
    """A decoder of one layer with a table of 32 positions."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places, self.head = nn.Embedding(160, 16), nn.Embedding(32, 16), nn.Linear(16, 160)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.tokens(input_ids) + self.places(torch.arange(input_ids.shape[1])[None])
        logits: Tensor = self.head(x.cumsum(1))
        return logits


LENGTH = torch.export.Dim("length", min=2, max=64)


def saved_program(module: nn.Module, path: Path, given: dict[str, Tensor], dynamic: dict[str, Any], *, keywords: bool = False) -> Path:
    arguments, named = ((), given) if keywords else (tuple(given.values()), {})
    torch.export.save(torch.export.export(module, arguments, named, dynamic_shapes=dynamic), str(path))
    return path


@pytest.mark.parametrize(
    "form",
    ["positions", "keywords", pytest.param("tokens", marks=pytest.mark.long), "batch of two", "shared length", "any batch"],
)
def test_inputs_are_bound_by_name(form: str, decoder: Any, tmp_path: Path, load_engine: Load) -> None:
    """Positions are not taken for a mask; keyword arguments, unknown names of a single input, fixed batches and masks of the same length
    as the ids all give the decoder's logits."""
    tokens = torch.zeros(1, 24, dtype=torch.int64)
    mask, places = torch.ones_like(tokens), torch.arange(24)[None]
    axis, path = {1: LENGTH}, tmp_path / "model.pt2"
    match form:
        case "positions":
            given = {"input_ids": tokens, "position_ids": places}
            saved_program(Positions(decoder), path, given, {"input_ids": axis, "position_ids": axis})
        case "keywords":
            given = {"attention_mask": mask, "input_ids": tokens}
            saved_program(Keywords(decoder), path, given, {"attention_mask": axis, "input_ids": axis}, keywords=True)
        case "tokens":
            saved_program(Tokens(decoder), path, {"sequence": tokens}, {"sequence": axis})
        case "batch of two":
            saved_program(Tokens(decoder), path, {"sequence": tokens.repeat(2, 1)}, {"sequence": axis})
        case "shared length":
            given = {"input_ids": tokens, "attention_mask": mask}
            free = {1: torch.export.Dim("length")}
            saved_program(Logits(decoder), path, given, {"input_ids": free, "attention_mask": free})
        case "any batch":
            free = {0: torch.export.Dim("batch", min=1, max=8), 1: LENGTH}
            saved_program(Tokens(decoder), path, {"sequence": tokens.repeat(3, 1)}, {"sequence": free})
    check(load_engine(path), decoder)


def test_logits_of_the_last_token_alone_are_used_as_such(decoder: Any, tmp_path: Path, load_engine: Load) -> None:
    """The program runs once for each token whose logits are wanted, and the engine says so; padded lengths are refused at load."""
    tokens = torch.zeros(1, 24, dtype=torch.int64)
    free = {"input_ids": {1: torch.export.Dim("length", min=1, max=64)}}
    engine = load_engine(saved_program(LastOnly(decoder), tmp_path / "last.pt2", {"input_ids": tokens}, free))
    assert "last token only" in engine.info.notes[1]
    check(engine, decoder)
    with pytest.raises(UnsupportedModel, match="no fewer than 24 tokens"):
        load_engine(saved_program(LastOnly(decoder), tmp_path / "fixed.pt2", {"input_ids": tokens}, {"input_ids": None}))


def test_what_a_program_computes_wrongly_is_found_at_load(decoder: Any, tmp_path: Path, load_engine: Load) -> None:
    """A decoder that looks ahead, a length past its table of positions, an unknown input, and weights that are no numbers."""
    tokens = torch.zeros(1, 24, dtype=torch.int64)
    free = {"input_ids": {1: LENGTH}}
    with pytest.raises(UnsupportedModel, match="looks back only"):
        load_engine(saved_program(Uncausal(decoder), tmp_path / "ahead.pt2", {"input_ids": tokens}, free))
    with pytest.raises(UnsupportedModel, match="fails at a text of 64 tokens"):
        load_engine(saved_program(Learned(), tmp_path / "table.pt2", {"input_ids": tokens}, free))
    broken = Learned()
    with torch.no_grad():
        broken.head.weight[3, 5] = torch.nan
    with pytest.raises(UnsupportedModel, match="NaN or infinite"):
        load_engine(saved_program(broken, tmp_path / "nan.pt2", {"input_ids": tokens}, {"input_ids": None}))


@pytest.mark.parametrize("shape", [(1, 8), (0, 8), (5, 8), (9, 0), (9, 7), (9,), ()])
def test_logits_of_another_shape_than_the_file_says_are_refused(shape: tuple[int, ...]) -> None:
    """A file says the shape of its logits, and computes what it will."""
    said = Signature(inputs=(), least=1, most=None, batch=1, last_only=False, vocab_size=8, dtype=torch.float32)
    with pytest.raises(UnsupportedModel, match="gives logits of the shape"):
        try_program(lambda _: torch.zeros(shape), said, 9, Path("model.pt2"))


def test_the_context_is_the_shorter_of_two(tmp_path: Path, load_engine: Load) -> None:
    """What config.json says, and what the program takes."""
    folder = tmp_path / "export"
    folder.mkdir()
    tokens = torch.zeros(1, 24, dtype=torch.int64)
    saved_program(Learned(), folder / "model.pt2", {"input_ids": tokens}, {"input_ids": {1: LENGTH}})
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 32}))
    assert load_engine(folder).info.context_length == 32


def test_another_signature_is_refused(tmp_path: Path, load_engine: Load) -> None:
    """A program that is no decoder is refused with what was expected."""
    path = tmp_path / "other.pt2"
    torch.export.save(torch.export.export(nn.Linear(4, 4), (torch.zeros(1, 4),)), str(path))
    with pytest.raises(UnsupportedModel, match="input_ids"):
        load_engine(path)


def test_its_precision_is_its_own(program: tuple[Any, Path], load_engine: Load) -> None:
    """A precision that the program does not have is refused."""
    with pytest.raises(ConfigError, match="float32"):
        load_engine(program[1], dtype="int8")


def rewritten(source: Path, target: Path, change: Callable[[str, bytes], bytes], extra: dict[str, bytes] | None = None) -> Path:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, change(entry.filename, old.read(entry)))
        for name, data in (extra or {}).items():
            new.writestr(name, data)
    return target


class Touch:
    """A pickle of this creates a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_no_code_of_an_archive_runs(program: tuple[Any, Path], tmp_path: Path, load_engine: Load) -> None:
    """Pickles of more than tensors, operators outside ATen, sizes that are code and compiled libraries are refused, and nothing ran."""
    trace = tmp_path / "ran"
    call = f"__import__('pathlib').Path({str(trace)!r}).touch()"

    def graph(**changes: str) -> Callable[[str, bytes], bytes]:
        def change(name: str, data: bytes) -> bytes:
            if not name.endswith("model.json"):
                return data
            text = data.decode()
            for old, new in changes.items():
                key = "target" if old == "operator" else "expr_str"
                first = next(value for value in json_strings(json.loads(text), key) if value.startswith("torch.ops") or key == "expr_str")
                text = text.replace(json.dumps(first), json.dumps(new))
            return text.encode()

        return change

    def sample(name: str, data: bytes) -> bytes:
        return pickle.dumps(Touch(trace)) if name.endswith("sample_inputs/model.pt") else data

    wrong = {
        "pickle": rewritten(program[1], tmp_path / "pickle.pt2", sample),
        "torch.os.system": rewritten(program[1], tmp_path / "operator.pt2", graph(operator="torch.os.system")),
        # It maps any file, and a fill behind it writes.
        "aten.from_file": rewritten(program[1], tmp_path / "file.pt2", graph(operator="torch.ops.aten.from_file.default")),
        "no arithmetic": rewritten(program[1], tmp_path / "size.pt2", graph(size=call)),
        "aotinductor": rewritten(program[1], tmp_path / "library.pt2", lambda _, data: data, {"model/data/aotinductor/model/a.so": b"x"}),
    }
    for what, path in wrong.items():
        with pytest.raises(CheckpointError, match=what) as caught:
            load_engine(path)
        assert "\n" not in str(caught.value)
    assert not trace.exists()


def test_guards_are_never_run(program: tuple[Any, Path], tmp_path: Path, load_engine: Load) -> None:
    """They are Python code; a file may hold any."""
    trace = tmp_path / "ran"

    def change(name: str, data: bytes) -> bytes:
        if not name.endswith("model.json"):
            return data
        graph = json.loads(data)
        graph["guards_code"] = [f"__import__('pathlib').Path({str(trace)!r}).touch() is None"]
        return json.dumps(graph).encode()

    check(load_engine(rewritten(program[1], tmp_path / "guarded.pt2", change)), program[0])
    assert not trace.exists()


def test_every_other_operator_of_torch_is_refused(tmp_path: Path) -> None:
    """The list holds what decoders use, and nothing else of the registry passes."""
    every = {schema.name.replace("::", ".") + "." + (schema.overload_name or "default") for schema in torch._C._jit_get_all_schemas()}
    known = {f"torch.ops.{name}" for name in every}
    assert {name for name in OPERATORS if name.startswith("torch.ops.aten")} <= known  # no name is misspelt
    assert len(known - OPERATORS) > 2000
    for name in [
        *sorted(known - OPERATORS),
        "torch.os.system",
        "torch.load",
        "torch.hub.load",
        "math.factorial",
        "_operator.attrgetter",
        "#x",
    ]:
        with pytest.raises(CheckpointError, match="no operator of a decoder"):
            _check_graph({"graph_module": {"graph": {"nodes": [{"target": name}]}}}, tmp_path / "model.pt2")


@pytest.mark.parametrize(
    "size",
    [
        "9**9**9**9",
        "Pow(Pow(Integer(9), 4), 4)",
        "Integer(9)**Integer(99)",
        "10**99",
        "s0.__class__",
        "s0[0]",
        "open('x')",
        "(" * 300 + "1" + ")" * 300,
    ],
)
def test_a_size_that_would_cost_or_run_something_is_refused(size: str) -> None:
    """Towers of powers, numbers of any length, attributes and calls."""
    assert not is_size(size)


@pytest.mark.parametrize(
    "size", ["s0", "Symbol('s0', positive=True, integer=True)", "2*s0 - 1", "Pow(Symbol('u1', integer=True), Integer(2))", "Max(1, s77)"]
)
def test_plain_sizes_pass(size: str) -> None:
    """What torch writes."""
    assert is_size(size)


def test_a_tensor_of_any_size_is_refused(program: tuple[Any, Path], tmp_path: Path, load_engine: Load) -> None:
    """A constant size that would take all memory."""

    def change(name: str, data: bytes) -> bytes:
        if not name.endswith("model.json"):
            return data
        graph = json.loads(data)
        graph["graph_module"]["graph"]["nodes"][0]["inputs"].append({"name": "size", "arg": {"as_ints": [1 << 20, 1 << 20]}, "kind": 1})
        return json.dumps(graph).encode()

    with pytest.raises(CheckpointError, match="more than any decoder needs"):
        load_engine(rewritten(program[1], tmp_path / "large.pt2", change))


def json_strings(node: Any, key: str, name: str = "") -> list[str]:
    if isinstance(node, str):
        return [node] if name == key else []
    if isinstance(node, dict):
        return [found for inner, value in node.items() for found in json_strings(value, key, inner)]
    return [found for value in node for found in json_strings(value, key, name)] if isinstance(node, list) else []


def test_a_truncated_archive_is_refused(program: tuple[Any, Path], tmp_path: Path, load_engine: Load) -> None:
    """Half an archive is a sentence."""
    path = tmp_path / "half.pt2"
    path.write_bytes(program[1].read_bytes()[:40_000])
    with pytest.raises(LLMasOSError, match="damaged") as caught:
        load_engine(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("at", range(8, 30, 2))
def test_a_directory_of_an_archive_with_any_damage_is_refused(
    at: int, program: tuple[Any, Path], tmp_path: Path, load_engine: Load
) -> None:
    """Flags, methods, sizes and offsets of every entry in turn: zipfile says what it thinks of them in a dozen kinds of errors."""
    data = bytearray(program[1].read_bytes())
    place = data.find(b"PK\x01\x02")
    while place >= 0:
        data[place + at : place + at + 2] = b"\xff\xff"
        place = data.find(b"PK\x01\x02", place + 4)
    path = tmp_path / "model.pt2"
    path.write_bytes(data)
    with contextlib.suppress(LLMasOSError):
        load_engine(path)


def saved_as(value: Any) -> bytes:
    data = io.BytesIO()
    torch.save(value, data)
    return data.getvalue()


class Calls:
    """A pickle of this calls a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int8, torch.uint8, torch.bool]
)
def test_pickles_of_tensors_pass(dtype: torch.dtype) -> None:
    """Tensors and parameters of every common type, in tuples, lists and dictionaries, with numbers and texts."""
    tensor = torch.zeros(3, 2).to(dtype)
    more = [nn.Parameter(tensor)] if dtype.is_floating_point else []
    assert makes_tensors_only(saved_as(((tensor, [tensor[1:], None, True, 1, -(2**40), 0.5, "text"]), {"mask": tensor, "more": more})))


@pytest.mark.parametrize(
    "value",
    [
        Calls(bytearray, 10**12),  # torch's own check lets it take a terabyte
        Calls(print, "it ran"),
        Calls(torch.zeros, 2),
        Calls(getattr, "text", "upper"),
        nn.Linear(2, 2),
        np.zeros(2),
        {1, 2},
    ],
)
def test_pickles_of_more_are_not_read(value: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """What calls or makes anything else is refused from its opcodes, before torch unpickles it."""
    assert not makes_tensors_only(saved_as(value))
    assert not makes_tensors_only(pickle.dumps(value))
    assert capsys.readouterr().out == ""


def test_only_an_archive_that_passed_in_a_child_is_read_here(
    program: tuple[Any, Path], tmp_path: Path, load_engine: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch and zipfile in this process never see an archive that the child refused."""
    from llmasos_backend_torch.exported import loading

    read: list[Path] = []
    check_archive = loading.check_archive
    monkeypatch.setattr(loading, "check_archive", lambda path: (read.append(path), check_archive(path))[1])
    cut = tmp_path / "cut.pt2"
    cut.write_bytes(program[1].read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"cut\.pt2"):
        load_engine(cut)
    assert read == []
    load_engine(program[1])
    assert read == [program[1]]
