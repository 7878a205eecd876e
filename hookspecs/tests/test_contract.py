"""The hook specifications, errors and plain data of the contract."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
import typing
from pathlib import Path
from typing import Any

import attrs
import pluggy
import pytest

import llmasos_hookspecs
from llmasos_hookspecs import (
    GROUPS,
    KINDS,
    AccelerationError,
    Choice,
    Component,
    ConfigError,
    Engine,
    LLMasOSError,
    Rejected,
    RequestError,
    SamplingParams,
    SchedulingPolicy,
    Score,
    errors,
    hookimpl,
    specs,
    testing,
)
from llmasos_hookspecs.testing import ByteTokenizer, PluginConformance, ReferenceEngine, tiny_checkpoint

HOOKS = {name: function for name, function in vars(specs).items() if name.startswith("llmasos_")}
PARAMETERS = {
    "llmasos_component": (),
    "llmasos_fetch": ("ref", "options", "context"),
    "llmasos_open": ("path", "options", "context"),
    "llmasos_export": ("checkpoint", "output", "options", "context"),
    "llmasos_read_tokenizer": ("folder", "options", "context"),
    "llmasos_load": ("checkpoint", "options", "context"),
    "llmasos_predict": ("checkpoint", "options", "context"),
    "llmasos_accelerate": ("checkpoint", "output", "options", "context"),
    "llmasos_create_scheduler": ("options", "context"),
    "llmasos_create_task": ("options", "context"),
    "llmasos_create_suite": ("options", "context"),
    "llmasos_command": ("options", "context"),
    "llmasos_create_placement": ("options", "context"),
    "llmasos_create_server": ("runtime", "options", "context"),
    "llmasos_create_access": ("options", "context"),
    "llmasos_create_guard": ("options", "context"),
    "llmasos_create_transcriber": ("options", "context"),
    "llmasos_create_speaker": ("options", "context"),
    "llmasos_pipeline_ready": ("pipeline", "options", "context"),
    "llmasos_request_started": ("record", "options", "context"),
    "llmasos_step": ("record", "options", "context"),
    "llmasos_request_finished": ("record", "options", "context"),
    "llmasos_pipeline_closed": ("pipeline", "options", "context"),
}


def test_the_hooks_are_those_of_the_contract() -> None:
    """Each hook has its name and parameters, and every hook but the first gets its options and is lent a context."""
    assert {name: tuple(inspect.signature(function).parameters) for name, function in HOOKS.items()} == PARAMETERS
    for name, parameters in PARAMETERS.items():
        assert parameters[-2:] == (() if name == "llmasos_component" else ("options", "context"))


def test_hooks_have_resolvable_types_and_docs() -> None:
    """Every parameter and result is annotated with a type that resolves, and every hook says what it is for."""
    for name, function in HOOKS.items():
        assert set(typing.get_type_hints(function)) == {*PARAMETERS[name], "return"}
        assert function.__doc__


def test_hooks_that_make_something_give_the_first_result() -> None:
    """A pipeline asks one plugin at a time; observers are all told."""
    manager = pluggy.PluginManager(llmasos_hookspecs.PROJECT)
    manager.add_hookspecs(specs)
    first = {name: bool(getattr(manager.hook, name).spec.opts["firstresult"]) for name in HOOKS}
    assert first == {name: name not in KINDS["observer"].hooks for name in HOOKS}


def test_a_misspelt_hook_is_found() -> None:
    """``check_pending`` names a hook that no specification knows."""

    class Plugin:
        @hookimpl
        def llmasos_laod(self) -> None: ...

    manager = pluggy.PluginManager(llmasos_hookspecs.PROJECT)
    manager.add_hookspecs(specs)
    manager.register(Plugin())
    with pytest.raises(pluggy.PluginValidationError, match="llmasos_laod"):
        manager.check_pending()


def test_kinds_and_groups() -> None:
    """Each kind has an entry point group, hooks of the contract with a specification, and a conformance class."""
    kinds = ("source", "format", "loader", "accelerator", "scheduler", "task", "suite", "command", "observer")
    assert {kind: f"llmasos.{kind}s" for kind in kinds} == {kind: GROUPS[kind] for kind in kinds}
    assert {kind.name: kind.group for kind in KINDS.values()} == GROUPS
    for kind in KINDS.values():
        assert {*kind.hooks, *kind.optional} <= set(HOOKS)
        assert {*kind.may_return_none} <= {*kind.hooks, *kind.optional}
        assert issubclass(getattr(testing, kind.conformance), PluginConformance)
        assert getattr(testing, kind.conformance).kind == kind.name
        assert issubclass(getattr(testing, kind.check), PluginConformance)


def test_every_hook_belongs_to_a_kind() -> None:
    """But for the one that every component has."""
    assert {hook for kind in KINDS.values() for hook in (*kind.hooks, *kind.optional)} == set(HOOKS) - {"llmasos_component"}


def test_a_component_needs_a_summary_only() -> None:
    """All else has a safe default; unknown stages are refused."""
    component = Component(summary="Does a thing.")
    assert (component.formats, component.stage, component.preference) == (("huggingface", "gguf", "neutral"), None, 0)
    with pytest.raises(ValueError, match="stage"):
        Component(summary="Does a thing.", stage="later")


ERRORS = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_every_error_is_an_llmasos_error(error: type[LLMasOSError]) -> None:
    """Each error is public, documented, and its text is the sentence it was given."""
    assert issubclass(error, LLMasOSError)
    assert getattr(llmasos_hookspecs, error.__name__) is error
    assert error.__doc__
    assert str(error("The sentence.")) == "The sentence."


def test_errors_carry_what_callers_need() -> None:
    """A place in the config, a time to come again, every problem of a plan; and they are ValueErrors where a value was wrong."""
    assert ConfigError("No.", "scheduler.use").path == "scheduler.use"
    assert Rejected("Full.", retry_after=2.5).retry_after == 2.5
    assert AccelerationError("Two problems.", ("One.", "Two.")).problems == ("One.", "Two.")
    assert AccelerationError("One problem.").problems == ("One problem.",)
    assert issubclass(ConfigError, ValueError)
    assert issubclass(RequestError, ValueError)


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("temperature", -0.1, "temperature is -0.1, and it must be a number of at least 0."),
        ("temperature", "hot", "temperature is 'hot', and it must be a number of at least 0."),
        ("temperature", float("nan"), "temperature is nan, and it must be a number of at least 0."),
        ("temperature", True, "temperature is True, and it must be a number of at least 0."),
        ("top_k", -1, "top_k is -1, and it must be a whole number of at least 0."),
        ("top_k", 2.5, "top_k is 2.5, and it must be a whole number of at least 0."),
        ("top_p", 0, "top_p is 0, and it must be a number above 0 and at most 1."),
        ("top_p", 1.01, "top_p is 1.01, and it must be a number above 0 and at most 1."),
        ("min_p", 2, "min_p is 2, and it must be a number from 0 to 1."),
        ("repetition_penalty", 0, "repetition_penalty is 0, and it must be a number above 0."),
        ("presence_penalty", 101, "presence_penalty is 101, and it must be a number from -100 to 100."),
        ("frequency_penalty", -101, "frequency_penalty is -101, and it must be a number from -100 to 100."),
        ("seed", -1, "seed is -1, and it must be a whole number of at least 0."),
        ("seed", "x", "seed is 'x', and it must be a whole number of at least 0."),
        ("logprobs", -1, "logprobs is -1, and it must be a whole number of at least 0."),
        ("prompt_lookup", 1.0, "prompt_lookup is 1.0, and it must be a whole number of at least 0."),
        ("stop", ("",), "stop holds '', and every stop must be a non-empty string."),
        ("stop", (3,), "stop holds 3, and every stop must be a non-empty string."),
    ],
)
def test_sampling_values_are_refused_in_one_sentence(field: str, value: Any, sentence: str) -> None:
    """A value out of range says its name, what it was and what it must be."""
    with pytest.raises(RequestError) as caught:
        SamplingParams(**{field: value})
    assert str(caught.value) == sentence


def test_sampling_defaults_are_greedy() -> None:
    """Without arguments the most likely token is taken and nothing is cut or penalised."""
    params = SamplingParams()
    assert (params.temperature, params.top_k, params.top_p, params.min_p, params.repetition_penalty) == (0.0, 0, 1.0, 0.0, 1.0)
    assert (params.seed, params.stop, params.constraint) == (None, (), None)


@pytest.mark.parametrize(("given", "expected"), [("\n", ("\n",)), (["a", "b"], ("a", "b")), (None, ()), ((), ())])
def test_stops_are_one_or_many(given: Any, expected: tuple[str, ...]) -> None:
    """One stop may stand alone."""
    assert SamplingParams(stop=given).stop == expected


def test_plain_data_is_frozen() -> None:
    """What passes between parts cannot be changed on the way."""
    for name in ("Row", "EngineInfo", "Request", "SamplingParams", "Component", "Charge", "Stats", "AccelerationResult", "RequestRecord"):
        cls = getattr(llmasos_hookspecs, name)
        assert cls.__setattr__ is not object.__setattr__, name
        assert attrs.has(cls)


def test_scores_and_choices() -> None:
    """The mean of a score is a token's share, and that of none is the whole."""
    assert Score(logprob=-6.0, tokens=3).mean == -2.0
    assert Score(logprob=-6.0, tokens=0).mean == -6.0
    assert Choice(index=1, text="b", probabilities=(0.25, 0.75)).text == "b"


def test_protocols_can_be_checked() -> None:
    """An engine is recognised by its methods."""
    assert isinstance(ReferenceEngine(tiny_checkpoint()), Engine)
    assert not isinstance(object(), Engine | SchedulingPolicy)


def test_the_public_names_are_all_there() -> None:
    """``__all__`` is sorted as ruff has it, and everything in it exists."""
    assert all(hasattr(llmasos_hookspecs, name) for name in llmasos_hookspecs.__all__)


def test_the_contract_imports_only_what_it_may() -> None:
    """hookspecs imports the standard library, attrs, pluggy and numpy; pytest, hypothesis and llguidance only in the kit."""
    root = Path(llmasos_hookspecs.__file__).parent
    allowed = {"attrs", "pluggy", "numpy", "llmasos_hookspecs"}
    for path in sorted(root.rglob("*.py")):
        extra = {"pytest", "hypothesis", "llguidance"} if "testing" in path.parts else set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                top = name.partition(".")[0]
                assert top in allowed | extra | set(sys.stdlib_module_names), f"{path.relative_to(root)} imports {name}"


def test_importing_the_contract_loads_no_pytest_and_no_framework() -> None:
    """A plugin that imports the contract pays for attrs, pluggy and numpy at most."""
    code = "import sys, llmasos_hookspecs; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    loaded = {name.partition(".")[0] for name in run.stdout.split()}
    assert not loaded & {"pytest", "hypothesis", "torch", "tensorflow", "onnxruntime", "llmasos"}


@pytest.mark.parametrize("text", ["", "plain", "今天天气很好 🙂", "<|im_start|>user\nhi<|im_end|>", "a<|eos|>b", "\x00\x7f é"])
def test_the_byte_tokenizer_is_the_one_it_writes(text: str, tmp_path: Path) -> None:
    """The kit's tokenizer and the ``tokenizer.json`` it writes give the same tokens and the same text."""
    tokenizers = pytest.importorskip("tokenizers")
    tiny_checkpoint("llama", folder=tmp_path)
    written, ours = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json")), ByteTokenizer()
    tokens = ours.encode(text)
    assert written.encode(text).ids == tokens
    assert written.decode(tokens, skip_special_tokens=True) == ours.decode(tokens)
    assert ours.decode(tokens, skip_special=False) == text


@pytest.mark.parametrize("package", [llmasos_hookspecs, llmasos_hookspecs.testing], ids=lambda package: package.__name__)
def test_what_is_exported_when_it_is_used_is_what_type_checkers_see(package: Any) -> None:
    """The table of modules names what the block for type checkers imports, and every name is there."""
    source = Path(package.__file__).read_text(encoding="utf-8")
    (block,) = [node for node in ast.parse(source).body if isinstance(node, ast.If)]
    seen = {alias.name: str(node.module) for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert {name: f"llmasos_hookspecs.{module}" for name, module in package.__getattr__.module_of.items()} == seen
    assert all(getattr(package, name) is not None for name in package.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        package.Nothing  # noqa: B018


def test_hook_markers_and_errors_cost_no_numpy() -> None:
    """What a plugin's module needs to describe itself."""
    code = "import sys; from llmasos_hookspecs import Component, PluginError, hookimpl; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def test_what_is_small_in_the_kit_loads_no_test_tool() -> None:
    """Else each module that takes one would load the plugins of hypothesis and pytest, whichever are installed."""
    code = "import sys\nfrom llmasos_hookspecs.testing import ByteTokenizer\nassert not {'pytest', 'hypothesis'} & set(sys.modules)"
    subprocess.run([sys.executable, "-I", "-c", code], check=True, timeout=120)
