"""All packages build as wheels, and an environment with the demo's wheels alone does the main job."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from .conftest import environment_of

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = [
    "hookspecs",
    "core",
    *sorted(str(path.parent.relative_to(ROOT)) for kind in ("libs", "plugins") for path in ROOT.glob(f"{kind}/*/pyproject.toml")),
]
DEMO = (
    "llmasos_hookspecs",
    "llmasos",
    "llmasos_answer_parts",
    "llmasos_config",
    "llmasos_replicas",
    "llmasos_guards",
    "llmasos_model_store",
    "llmasos_isolation",
    "llmasos_options",
    "llmasos_plugin_calls",
    "llmasos_residency",
    "llmasos_engine",
    "llmasos_chat_templates",
    "llmasos_checkpoint_kit",
    "llmasos_command_kit",
    "llmasos_conversations",
    "llmasos_tokenizing",
    "llmasos_format_gguf",
    "llmasos_decoder_kit",
    "llmasos_encoder_kit",
    "llmasos_fetch_kit",
    "llmasos_huggingface_folder",
    "llmasos_image_input",
    "llmasos_task_kit",
    "llmasos_backend_onnx",
    "llmasos_sched_fifo",
    "llmasos_app_text",
    "llmasos_command_plugins",
    "llmasos_source_pypi",
)

pytestmark = pytest.mark.wheels


@pytest.fixture(scope="session")
def all_wheels(build_wheels: Callable[[Iterable[Path]], dict[str, Path]]) -> dict[str, Path]:
    """Every package of the workspace as a wheel, by distribution name as files spell it."""
    return build_wheels(ROOT / package for package in PACKAGES)


def test_every_package_builds_a_typed_wheel_with_its_licence_named(all_wheels: dict[str, Path]) -> None:
    """One wheel a package, with ``py.typed``, and no tests inside."""
    assert len(all_wheels) == len(PACKAGES)
    for path in all_wheels.values():
        with zipfile.ZipFile(path) as wheel:
            names = wheel.namelist()
            (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
            licence = "GPL-3.0-or-later" if path.name.startswith("llmasos_voice_piper") else "Apache-2.0"
            assert f"License-Expression: {licence}\n" in wheel.read(metadata).decode()
        assert any(name.endswith("/py.typed") for name in names), path.name
        assert not any(name.startswith("tests/") for name in names), path.name


@pytest.mark.model
@pytest.mark.parametrize("others", ["copied", pytest.param("fetched", marks=pytest.mark.long)])
def test_the_demos_wheels_alone_do_the_main_job(all_wheels: dict[str, Path], tmp_path: Path, others: str) -> None:
    """A clean environment with these wheels fetches the model and continues 今天天气很好; what they require of others is copied from the
    tests' environment, or fetched by pip, and then the answer is also the same in JSON."""
    if others == "copied":
        python = environment_of(tmp_path / "venv", "pip", *(name.replace("_", "-") for name in DEMO))
    else:
        python = tmp_path / "venv" / "bin" / "python"
        venv.create(tmp_path / "venv", with_pip=False)
    home = tmp_path / "home"
    home.mkdir()

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(python), *arguments],
            capture_output=True,
            text=True,
            encoding="utf-8",
            cwd=home,
            env={"PATH": "/usr/bin:/bin", "HOME": str(home), "LLMASOS_HOME": str(home)},
            timeout=600,
            check=False,
        )

    constraints = ROOT / "constraints.txt"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-compile", "-c", str(constraints)]
    wheels = [str(all_wheels[name]) for name in DEMO]
    installed = subprocess.run([*pip, *wheels], capture_output=True, text=True, cwd=home, timeout=600, check=False)
    assert installed.returncode == 0, installed.stderr
    command = str(python.with_name("llmasos"))
    streamed = run(command, "run", "--raw", "今天天气很好", "--max-new-tokens", "8")
    assert streamed.returncode == 0, streamed.stderr
    assert streamed.stdout.removesuffix("\n") != ""
    if others == "fetched":
        whole = run(command, "run", "--raw", "今天天气很好", "--max-new-tokens", "8", "--json")
        assert json.loads(whole.stdout)["text"] == streamed.stdout.removesuffix("\n")
    frameworks = run("-c", "import importlib.util as u; print([n for n in ('torch', 'tensorflow', 'transformers') if u.find_spec(n)])")
    assert frameworks.stdout.strip() == "[]"
