"""Reading a model of any format opens only the model, the store, the cache and the libraries, and makes no network connection.

Python's audit events report what Python opens, but not what a native library opens by itself.
"""

from __future__ import annotations

import ast
import json
import os
import runpy
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import attrs
import numpy as np
import pytest

from llmasos.api.exporting import export
from llmasos_hookspecs.testing import tiny_checkpoint
from llmasos_hookspecs.testing.tokenizer import tokenizer_files

ROOT = Path(__file__).parent.parent
#: What reading a model does beyond what it may.
NOTHING: dict[str, list[str]] = {"read": [], "written": [], "network": [], "started": [], "inspected": []}
#: What a library or core may look at outside of all those: the machine it runs on.
MACHINE = ("/proc", "/sys", "/dev", "/etc", "/usr", "/lib", "/lib64")


@attrs.frozen
class Case:
    """A reference, where the model behind it lies, and the loader that takes it."""

    reference: str
    places: tuple[Path, ...]
    loader: str = "onnx"


def folder(path: Path) -> Path:
    """A tiny Hugging Face folder with a tokenizer and a chat template."""
    tiny_checkpoint("llama", folder=path)
    for name, content in tokenizer_files().items():
        (path / name).write_text(json.dumps(content))
    return path


def as_folder(tmp: Path) -> Case:
    path = folder(tmp / "model")
    return Case(str(path), (path,))


def as_tar(tmp: Path) -> Case:
    path = tmp / "model.tar.gz"
    with tarfile.open(path, "w:gz") as tape:
        tape.add(folder(tmp / "made"), arcname="m")
    return Case(str(path), (path,))


def as_wheel(tmp: Path) -> Case:
    made, index = folder(tmp / "made"), tmp / "index"
    index.mkdir()
    with zipfile.ZipFile(index / "tiny_model-1.0-py3-none-any.whl", "w") as bundle:
        for path in sorted(made.iterdir()):
            bundle.write(path, f"tiny_model/{path.name}")
        info = "tiny_model-1.0.dist-info"
        bundle.writestr(f"{info}/METADATA", "Metadata-Version: 2.4\nName: tiny-model\nVersion: 1.0\n\n")
        bundle.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        bundle.writestr(f"{info}/RECORD", "")
    return Case("pypi:tiny-model==1.0", ())


def as_gguf(tmp: Path) -> Case:
    path = tmp / "model.gguf"
    export(folder(tmp / "made"), path, gguf="q8_0")
    return Case(str(path), (path,))


def as_export(tmp: Path) -> Case:
    """A decoder that another tool exported, with its weights in a file beside the graph."""
    exporters = runpy.run_path(str(ROOT / "plugins" / "backend_onnx" / "tests" / "exported" / "conftest.py"))
    path = exporters["write_export"](tiny_checkpoint("llama"), tmp / "model", exporters["Style"](external="model.onnx.data"))
    for name, content in tokenizer_files().items():
        (path / name).write_text(json.dumps(content))
    return Case(str(path), (path,))


def as_program(tmp: Path) -> Case:
    """A decoder that torch exported, of a table and a product."""
    torch = pytest.importorskip("torch")
    path = with_tokenizer(tmp / "model")
    layers = torch.nn.Sequential(torch.nn.Embedding(288, 8), torch.nn.Linear(8, 288))
    dynamic = ({1: torch.export.Dim("tokens", min=2, max=256)},)
    program = torch.export.export(layers.eval(), (torch.zeros(1, 8, dtype=torch.long),), dynamic_shapes=dynamic)
    torch.export.save(program, str(path / "model.pt2"))
    return Case(str(path), (path,), "torch")


def as_saved_model(tmp: Path) -> Case:
    """The same from TensorFlow."""
    tf = pytest.importorskip("tensorflow")
    path = with_tokenizer(tmp / "model")
    module, rng = tf.Module(), np.random.default_rng(0)
    module.weights = [tf.Variable(rng.standard_normal(shape).astype("f4")) for shape in ((288, 8), (8, 288))]
    tokens = tf.TensorSpec((None, None), tf.int32, name="input_ids")
    serve = tf.function(lambda input_ids: {"logits": tf.gather(module.weights[0], input_ids) @ module.weights[1]}, input_signature=[tokens])
    tf.saved_model.save(module, str(path), signatures=serve)
    return Case(str(path), (path,), "tf")


def as_keras_file(tmp: Path) -> Case:
    """The same from Keras."""
    pytest.importorskip("tensorflow")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    import keras

    path = with_tokenizer(tmp / "model")
    tokens = keras.Input((None,), dtype="int32", name="token_ids")
    keras.Model(tokens, keras.layers.Dense(288)(keras.layers.Embedding(288, 8)(tokens))).save(path / "model.keras")
    return Case(str(path), (path,), "tf")


def with_tokenizer(path: Path) -> Path:
    path.mkdir()
    for name, content in tokenizer_files().items():
        (path / name).write_text(json.dumps(content))
    return path


#: Format -> a model of it, the function that inspects it at first sight, and the framework that reads it then.
FOREIGN: dict[str, tuple[Callable[[Path], Case], str, str]] = {
    "export": (as_export, "llmasos_backend_onnx.foreign.graph:inspect", "onnxruntime"),
    "program": (as_program, "llmasos_backend_torch.exported.archive:inspect", "torch"),
    "saved model": (as_saved_model, "llmasos_backend_tf.saved_functions:inspect", "keras_hub"),
    "keras": (as_keras_file, "llmasos_backend_tf.keras_inspection:inspect_archive", "keras_hub"),
}
CASES: dict[str, Callable[[Path], Case]] = {"folder": as_folder, "tar": as_tar, "wheel": as_wheel, "gguf": as_gguf, "export": as_export}


def decoys(path: Path) -> Path:
    path.mkdir()
    for name in ("attrs", "numpy", "torch", "onnxruntime", "sitecustomize", "tokenizers", "jinja2", "json", "llmasos_hookspecs"):
        (path / f"{name}.py").write_text(f"open({str(path / 'ran')!r}, 'a').write(__name__)\n")
    for name in ("pip", "llmasos", "transformers"):
        (path / name).mkdir()
        (path / name / "__init__.py").write_text(f"open({str(path / 'ran')!r}, 'a').write(__name__)\n")
    for name in ("config.json", "tokenizer.json", "chat_template.jinja", "llmasos.json", ".env", "pip.conf"):
        (path / name).write_text("{}")
    return path


def watched(tmp: Path, case: Case, *how: str) -> dict[str, list[str]]:
    """What a process did that read the model from a folder full of decoys, beyond what it may."""
    home, scratch, work = tmp / "home", tmp / "scratch", decoys(tmp / "work")
    scratch.mkdir()
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PIP_", "LLMASOS_", "TORCH"))}
    environment |= {"LLMASOS_HOME": str(home), "TMPDIR": str(scratch), "PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1"}
    environment |= {
        "KERAS_BACKEND": "tensorflow",
        "PIP_FIND_LINKS": str(tmp / "index"),
        "HOME": str(tmp / "nobody"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    report = tmp / "report.json"
    command = [sys.executable, "-P", str(ROOT / "tests" / "canary.py"), str(report), case.reference, case.loader, *how]
    done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert not (work / "ran").exists(), (work / "ran").read_text()
    seen: dict[str, list[str]] = json.loads(report.read_text())
    own = {ROOT / part for part in ("hookspecs", "core", "plugins", "libs", "tests")}
    libraries = {*own, Path(sys.prefix), Path(sys.base_prefix), *(Path(path) for path in sysconfig.get_paths().values())}
    readable = [*libraries, *case.places, home, scratch, *map(Path, MACHINE)]
    writable = [home, scratch, Path(os.devnull)]

    def outside(names: list[str], places: list[Path]) -> list[str]:
        roots = [place.resolve() for place in places]
        return [name for name in names if not any(Path(name).resolve().is_relative_to(root) for root in roots)]

    allowed = [sys.executable]
    return {
        "read": outside(seen["read"], readable),
        "written": outside(seen["written"], writable),
        "inspected": seen["inspected"],
        "network": [each for each in seen["network"] if "'127.0.0.1'" not in each],  # where ``llmasos ps`` asks it, and it itself
        "started": [each for each in seen["started"] if not (each.split()[0] in allowed and each.split()[1] in ("-I", "-P", "-E"))],
    }


def test_the_canary_sees_what_it_is_there_to_see(tmp_path: Path) -> None:
    """A program that opens, writes, moves, connects and starts things is told of in each of these."""
    code = f"""
import os, runpy, socket, subprocess, sys
canary = runpy.run_path({str(ROOT / "tests" / "canary.py")!r}, run_name="canary")
sys.addaudithook(canary["watch"])
open("read").close(); open("written", "w").close(); os.mkdir("made"); os.rename("made", "moved")
try: socket.create_connection(("192.0.2.1", 9), timeout=0.01)
except OSError: pass
subprocess.run([sys.executable, "-c", "pass"])
print({{kind: sorted(os.path.basename(name) for name in names) for kind, names in canary["SEEN"].items()}})
"""
    (tmp_path / "read").touch()
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    seen = ast.literal_eval(done.stdout)
    assert "read" in seen["read"]
    assert {"written", "made", "moved"} <= set(seen["written"])
    assert any("192.0.2.1" in each for each in seen["network"])
    assert any(each.endswith("-c pass") for each in seen["started"])


#: A wheel is an archive, and holds such a folder.
LONG = ("folder", "tar", "export")


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.long] * (name in LONG)) for name in CASES])
def test_reading_a_model_touches_nothing_else(name: str, tmp_path: Path) -> None:
    case = CASES[name](tmp_path)
    assert watched(tmp_path, case) == NOTHING


# Keras converts its tensors in a way that numpy 2 warns of.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.long] * (name != "export")) for name in FOREIGN])
def test_the_first_inspection_of_a_foreign_model_touches_nothing_else(name: str, tmp_path: Path) -> None:
    """What runs in a child process at first sight is watched here, and so is what the loader does then."""
    make, inspect, framework = FOREIGN[name]
    seen = watched(tmp_path, make(tmp_path), framework)
    assert {each.split()[0] for each in seen.pop("inspected")} == {inspect, "llmasos_tokenizing.first_sight:probe"}
    assert seen == {kind: [] for kind in NOTHING if kind != "inspected"}


@pytest.mark.model
@pytest.mark.long
def test_reading_a_gguf_file_touches_nothing_else(smollm2_gguf: Path, tmp_path: Path) -> None:
    case = Case(str(smollm2_gguf), (smollm2_gguf,))
    assert watched(tmp_path, case) == NOTHING
