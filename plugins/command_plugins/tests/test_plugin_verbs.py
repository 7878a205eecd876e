"""``plugins``: install, export, restore and uninstall, in an environment that is thrown away."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

import pytest
from core.tests.cli.fork_server import LLMASOS, RESCAN, ForkServer

pytestmark = pytest.mark.slow

#: Built by its own module ``backend``, as PEP 517 lets a project: to import a build tool takes longer than all else that pip does here.
PROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "my-sched"
version = "0.1.0"
"""
BACKEND = """
import zipfile

INFO = "my_sched-0.1.0.dist-info"
FILES = {
    "my_sched/__init__.py": open("my_sched.py").read(),
    f"{INFO}/METADATA": "Metadata-Version: 2.1\\nName: my-sched\\nVersion: 0.1.0\\nRequires-Dist: llmasos-hookspecs>=0.2,<0.3\\n",
    f"{INFO}/WHEEL": "Wheel-Version: 1.0\\nGenerator: backend\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
    f"{INFO}/entry_points.txt": "[llmasos.schedulers]\\nmy-sched = my_sched\\n",
}

def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    name = "my_sched-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(f"{wheel_directory}/{name}", "w") as wheel:
        for path, text in FILES.items():
            wheel.writestr(path, text)
        wheel.writestr(f"{INFO}/RECORD", "".join(f"{path},,\\n" for path in (*FILES, f"{INFO}/RECORD")))
    return name
"""
MODULE = """
from llmasos_hookspecs import Component, hookimpl

@hookimpl
def llmasos_component(): return Component(summary="Mine.")

@hookimpl
def llmasos_create_scheduler(options, context): return object()
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A scheduler's package."""
    folder = tmp_path / "my-sched"
    folder.mkdir()
    (folder / "pyproject.toml").write_text(PROJECT)
    (folder / "backend.py").write_text(BACKEND)
    (folder / "my_sched.py").write_text(MODULE)
    return folder


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, new_home: Callable[[Path], Path]):
    """A virtual environment that sees everything that the tests' own has; what is installed lands in it alone."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    places = [path for path in sys.path if path.endswith("site-packages")]
    own = next((folder / "lib").glob("python*")) / "site-packages"
    (own / "theirs.pth").write_text("".join(f"import site; site.addsitedir({path!r})\n" for path in places))
    env = {key: value for key, value in os.environ.items() if not key.startswith(("LLMASOS_", "PIP_"))}
    env |= {
        "LLMASOS_HOME": str(new_home(folder / "home")),
        "PIP_NO_INDEX": "1",
        "PIP_NO_BUILD_ISOLATION": "0",
        "PIP_CONFIG_FILE": os.devnull,
    }

    with ForkServer(env, tmp_path_factory.mktemp("streams"), python=python) as server:

        def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
            return server.said("plugins", *map(str, arguments), folder=folder, code=RESCAN + LLMASOS)

        run.own = own
        yield run


def installed_here(environment) -> bool:
    """Whether the package lies in the environment."""
    return any(environment.own.glob("my_sched*.dist-info"))


def listed(environment) -> set[str]:
    """The names of all components, as the verb lists them."""
    return {each["name"] for each in json.loads(environment("list", "--json").stdout)["components"]}


def test_a_plugin_is_installed_exported_removed_and_restored(environment, package, tmp_path):
    """Nothing changes without a yes."""
    installed = environment("install", package, "--yes")
    assert installed.returncode == 0, installed.stderr
    assert 'scheduler "my-sched" (my-sched 0.1.0) is ready' in installed.stdout
    assert "my-sched" in listed(environment)

    file = tmp_path / "plugins.txt"
    assert environment("export", file).returncode == 0
    pins = file.read_text().splitlines()
    assert [pin for pin in pins if pin.startswith("my-sched")] == [f"my-sched @ {package.as_uri()}"]

    assert environment("uninstall", "my-sched", "--dry-run").returncode == 0
    unasked = environment("uninstall", "my-sched")
    assert unasked.returncode == 2
    assert "give --yes" in unasked.stderr
    assert installed_here(environment)
    removed = environment("uninstall", "scheduler:my-sched", "--yes", "--json")
    assert removed.returncode == 0, removed.stderr
    assert json.loads(removed.stdout)["changes"][0]["version"] is None
    assert "my-sched" not in listed(environment)

    file.write_text("\n".join(pin for pin in pins if pin.startswith("my-sched")))
    restored = environment("restore", file, "--yes")
    assert restored.returncode == 0, restored.stderr
    assert installed_here(environment)


@pytest.mark.long  # a plan comes before each installation above, and of what is there already in the kit
def test_what_an_installation_would_change_is_shown_and_nothing_changes(environment, package):
    looked = json.loads(environment("install", package, "--dry-run", "--json").stdout)["changes"]
    assert [(each["name"], each["version"], each["installed"]) for each in looked] == [("my-sched", "0.1.0", None)]
    assert not installed_here(environment)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("install", "llmasos-sched-fairr", "--yes"), 'did you mean "llmasos-sched-fair"'),
        pytest.param(("install", "./none", "--yes"), "none", marks=pytest.mark.long),
        (("uninstall", "fiffo", "--yes"), 'did you mean "fifo"'),
        pytest.param(("uninstall", "llmasos", "--yes"), "LLMasOS itself", marks=pytest.mark.long),
        (("restore", "none.txt", "--yes"), "There is no file none.txt"),
        pytest.param(("show", "fiffo"), 'did you mean "fifo"', marks=pytest.mark.long),
        (("list", "--kind", "schedular"), 'did you mean "scheduler"'),
    ],
)
def test_wrong_use_is_one_sentence(environment, arguments, sentence):
    """And nothing is changed."""
    done = environment(*arguments)
    assert done.returncode in (1, 2)
    assert sentence in done.stderr
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1
