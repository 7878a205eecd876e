"""Changes the code one expression at a time, and prints the changes that no test notices (mutation testing, with mutmut).

    make mutants                               the engine, the residency and the accelerators: hours
    make mutants TARGET=engine/scheduler.py    one file, or one folder, of core
    make mutants TARGET=accel_quant/gptq.py    one file, or all, of a plugin

ARGS="-k 'not simulation'" goes to pytest. Works on a copy of the code, in .venv/mutants. Exits with 1 where more than a tenth survives.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Final

import attrs

ROOT: Final = Path(__file__).resolve().parents[1]
WORK: Final = ROOT / ".venv" / "mutants"
TARGETS: Final = ("engine", "residency", "accel_quant", "accel_prune", "accel_distill", "torch_decoder")
#: Further arguments of pytest.
ARGUMENTS: Final = shlex.split(os.environ.get("ARGS", ""))
#: The largest share of changes that may survive.
ALLOWED: Final = 0.1
#: How mutmut calls a change that no test noticed: the tests passed, or none of them runs the function.
_SURVIVED: Final = ("survived", "no tests")


@attrs.frozen
class Target:
    """What to change.

    Attributes:
        name: as it is asked for.
        package: the folder of its package in the workspace.
        code: the file or folder to change, relative to the package's ``src``.
        tests: the folder of the tests to run, relative to the package's ``tests``.
    """

    name: str
    package: Path
    code: Path
    tests: Path

    @classmethod
    def find(cls, name: str) -> Target:
        """``engine/scheduler.py`` of core, or ``accel_quant/gptq.py`` of a plugin. Raises ``SystemExit`` where there is no such file."""
        first, *_ = Path(name).parts
        for folder in ("plugins", "libs"):
            package = ROOT / folder / first
            if (package / "pyproject.toml").is_file():
                (module,) = (path.name for path in (package / "src").iterdir() if (path / "__init__.py").is_file())
                found = cls(name, package, Path(module, *Path(name).parts[1:]), Path())
                break
        else:
            found = cls(name, ROOT / "core", Path("llmasos", name), Path(first))
        for path in (found.package / "src" / found.code, found.package / "tests" / found.tests):
            if not path.exists():
                raise SystemExit(
                    f"{path.relative_to(ROOT)} does not exist; name a file or folder of core, or a plugin: engine/scheduler.py."
                )
        return found


def prepare(target: Target) -> Path:
    """A folder of the layout that mutmut knows: a copy of the package's code and of its tests. mutmut keeps the results of an earlier run
    there, for code that is unchanged."""
    work = WORK / target.name.replace("/", "-").removesuffix(".py")
    for folder in ("src", "tests"):
        shutil.rmtree(work / folder, ignore_errors=True)
        shutil.copytree(target.package / folder, work / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "conftest.py", work)
    code = f"src/{target.code.as_posix()}"
    options = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["pytest"]["ini_options"]
    options["pythonpath"] = [str(ROOT)]  # for the simulation, which has tests, and for what tests of several folders share
    tables = {
        "mutmut": {
            "source_paths": ["src"],
            "only_mutate": [code if code.endswith(".py") else f"{code}/*.py"],
            "also_copy": ["conftest.py"],
            "pytest_add_cli_args_test_selection": [f"tests/{target.tests.as_posix()}"],
            "pytest_add_cli_args": ["--hypothesis-profile=mutants", "--hypothesis-seed=0", "-p", "no:xdist", *ARGUMENTS],
            "use_git_change_detection": False,
        },
        "pytest.ini_options": options,
    }
    lines = [
        line
        for name, table in tables.items()
        for line in (f"[tool.{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items() if key != "testpaths"))
    ]
    (work / "pyproject.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return work


def mutmut(work: Path, *arguments: str, show: bool = False) -> str:
    """Run mutmut there; what it printed, empty where it is shown. Raises ``SystemExit`` where it failed."""
    command = [sys.executable, "-m", "mutmut", *arguments]
    done = subprocess.run(command, cwd=work, stdout=None if show else subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"mutmut {' '.join(arguments)} failed in {work}.")
    return done.stdout or ""


def run(target: Target) -> tuple[int, int]:
    """Test every change to the target and print those that survive; how many survived, of how many."""
    work = prepare(target)
    mutmut(work, "run", "--max-children", os.environ.get("JOBS", "2"), show=True)
    results = dict(re.findall(r"^ +(\S+): (.+)$", mutmut(work, "results", "--all", "true"), re.MULTILINE))
    survivors = sorted(name for name, result in results.items() if result in _SURVIVED)
    for name in survivors:
        print(f"\n{results[name].capitalize()}:\n{mutmut(work, 'show', name)}")
    return len(survivors), len(results)


def main(names: list[str]) -> int:
    counts = {name: run(Target.find(name)) for name in names or TARGETS}
    for name, (survived, total) in counts.items():
        print(f"{name}: {survived} of {total} changes survived ({survived / max(total, 1):.0%})")
    return int(any(survived > ALLOWED * total for survived, total in counts.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
