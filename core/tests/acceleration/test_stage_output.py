"""What an accelerator left is checked before it is kept, and found again only while its code is the same."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import attrs
import numpy as np
import pytest

from llmasos.acceleration.code_digest import code_digest
from llmasos_hookspecs import AccelerationResult, DecoderConfig, PluginError, StagePlan
from llmasos_hookspecs.testing.safetensors import load_safetensors, save_safetensors

NORM = "model.norm.weight"


def after_writing(bench: Any, deed: Callable[[Path], None], **component: Any) -> None:
    """An accelerator that writes a sound checkpoint, and then does ``deed`` to its folder."""
    bench.add("mine", lambda name, tensor, *_: tensor * np.float32(2) if name == NORM else tensor, **component)
    loaded = bench.accelerators["mine"]
    sound = loaded.module.llmasos_accelerate

    def llmasos_accelerate(checkpoint: Any, output: Path, options: Any, context: Any) -> Any:
        result = sound(checkpoint=checkpoint, output=output, options=options, context=context)
        deed(output)
        return result

    from llmasos_hookspecs import hookimpl

    loaded.module.llmasos_accelerate = hookimpl(llmasos_accelerate)


def weights(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def deed(folder: Path) -> None:
        file = folder / "model.safetensors"
        tensors = dict(load_safetensors(file))
        change(tensors)
        save_safetensors(file, tensors)
        (folder / "llmasos.json").unlink()  # whose digests would tell

    return deed


def settings(**changes: Any) -> Callable[[Path], None]:
    def deed(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text()) | changes
        (folder / "config.json").write_text(json.dumps(config))

    return deed


DEEDS = {
    "a tensor is dropped": (weights(lambda tensors: tensors.pop(NORM)), "wrote no tensor model.norm.weight"),
    "a tensor is added": (weights(lambda tensors: tensors.update(extra=tensors[NORM])), "wrote the tensor extra, which its config"),
    "a tensor is cut": (
        weights(lambda tensors: tensors.update({NORM: tensors[NORM][:-1]})),
        r"wrote the tensor model.norm.weight in the shape \[63\], and its config asks for \[64\]",
    ),
    "a tensor is of whole numbers": (
        weights(lambda tensors: tensors.update({NORM: tensors[NORM].astype(np.int32)})),
        "a checkpoint that cannot be read .*int32",
    ),
    "the config is edited": (settings(rms_norm_eps=0.5), "a checkpoint that cannot be read .*config.json"),
    "the weights are gone": (lambda folder: (folder / "model.safetensors").unlink(), "a checkpoint that cannot be read"),
    "the weights are rubbish": (lambda folder: (folder / "model.safetensors").write_bytes(b"rubbish"), "a checkpoint that cannot be read"),
}


@pytest.mark.parametrize("deed", DEEDS)
def test_a_stage_that_wrote_something_else_is_at_fault_and_kept_nowhere(bench: Any, deed: str) -> None:
    """The accelerator is named now, and a later run makes the stage anew."""
    do, said = DEEDS[deed]
    after_writing(bench, do)
    for _ in range(2):
        with pytest.raises(PluginError, match=rf'accelerator "mine" \(.*\) wrote.*{said.removeprefix("wrote ")}'):
            bench.run(["mine"])
    assert bench.log == ["mine", "mine"]
    assert not [path for path in (bench.folder / "cache" / "stages").iterdir() if not path.name.startswith(".")]


def test_a_stage_that_wrote_another_model_than_it_planned_is_at_fault(bench: Any) -> None:
    """The stages after it were planned on what it said."""

    def plan(decoder: DecoderConfig, options: Any, state: Any) -> StagePlan:
        return StagePlan(decoder=attrs.evolve(decoder, num_layers=1))

    after_writing(bench, lambda _folder: None, plan=plan)
    with pytest.raises(PluginError, match="wrote another model than it had planned"):
        bench.run(["mine"])


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda: {}["lost"], "failed in plan: KeyError"),
        (lambda: sys.exit(3), "failed in plan: SystemExit"),
        (lambda: None, "returned a NoneType from plan"),
        (lambda: "fine", "returned a str from plan"),
    ],
)
def test_a_plan_that_is_none_is_one_sentence(bench: Any, answer: Callable[[], Any], said: str) -> None:
    """Before a weight is read."""
    after_writing(bench, lambda _folder: None, plan=lambda *_: answer())
    with pytest.raises(PluginError, match=rf'accelerator "mine" \(.*\) {said}'):
        bench.run(["mine"])
    assert not bench.log


@pytest.mark.parametrize("answer", [None, "done", AccelerationResult(path=Path("elsewhere"))])
def test_an_accelerator_that_returns_something_else_is_at_fault(bench: Any, answer: Any) -> None:
    """A result is one that the writer made."""
    bench.add("mine", lambda _name, tensor, *_: tensor)
    from llmasos_hookspecs import AccelerationError, hookimpl

    bench.accelerators["mine"].module.llmasos_accelerate = hookimpl(lambda: answer)
    with pytest.raises((PluginError, AccelerationError), match='accelerator "mine"'):
        bench.run(["mine"])


def test_an_edited_accelerator_is_run_again(bench: Any, tmp_path: Path) -> None:
    """Under the same name, version and options: what counts is what it does. Code that is put back finds its result again."""
    bench.add("mine", lambda name, tensor, *_: tensor * np.float32(2) if name == NORM else tensor)
    file = tmp_path / "mine.py"
    bench.accelerators["mine"].module.__file__ = str(file)
    for text in ("one", "one", "two", "one"):
        file.write_text(text)
        bench.run(["mine"])
    assert bench.log == ["mine", "mine"]


def test_a_packages_digest_is_that_of_all_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of those that are imported later, and of data; not of what the interpreter leaves."""
    package = tmp_path / "digested"
    (package / "__pycache__").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "inner.py").write_text("a = 1")
    top, inner = ModuleType("digested"), ModuleType("digested.inner")
    top.__file__, inner.__file__ = str(package / "__init__.py"), str(package / "inner.py")
    monkeypatch.setitem(sys.modules, "digested", top)
    seen = [code_digest(inner)]
    (package / "__pycache__" / "inner.pyc").write_bytes(b"x")
    assert code_digest(inner) == code_digest(top) == seen[0]
    for change in (lambda: (package / "inner.py").write_text("a = 2"), lambda: (package / "table.json").write_text("{}")):
        change()
        assert code_digest(inner) not in seen
        seen.append(code_digest(inner))
    assert code_digest(ModuleType("made")) == ""
