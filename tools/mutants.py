"""Changes the code one expression at a time, and prints the changes that no test notices (mutation testing, with mutmut's changes).

    make mutants                               the engine, the residency and the accelerators: hours
    make mutants ARGS="--sample 150 --seed 1"  a random 150 of their changes
    make mutants TARGET=engine/scheduler.py    one file, or all, of a library or a plugin
    make mutants TARGET=compose                one folder, or file, of core

A change is tested by the quickest of its package's tests that run the changed function, ``--budget`` seconds of them (processor time, on
the code as it is). What else stands in ARGS goes to pytest: ``-k 'not simulation'``. Works on a copy of the code, in .venv/mutants, which
stays as long as the code does; so does what is known of a test's time, as long as its file does too. Exits with 1 where more than a tenth
survives. To run any test on a change that is printed:

    MUTANT_UNDER_TEST=NAME PYTHONPATH=.venv/mutants/engine/src python -m pytest libs/engine/tests/test_loop.py
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import difflib
import functools
import hashlib
import json
import os
import random
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Final

import attrs
from mutmut.mutation.file_mutation import mutate_file_contents
from mutmut.utils.format_utils import mangled_name_from_mutant_name

ROOT: Final = Path(__file__).resolve().parents[1]
WORK: Final = ROOT / ".venv" / "mutants"
TARGETS: Final = ("engine", "residency", "accel_quant", "accel_prune", "accel_distill", "accel_merge", "torch_decoder")
#: The largest share of changes that may survive.
ALLOWED: Final = 0.1


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
        """``engine/scheduler.py`` of a library or plugin, or ``compose`` of core. Raises ``SystemExit`` where there is no such file."""
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
                    f"{path.relative_to(ROOT)} does not exist; name one of core, or of a library or plugin: engine/scheduler.py."
                )
        return found

    @property
    def work(self) -> Path:
        """The folder of the copy."""
        return WORK / self.name.replace("/", "-").removesuffix(".py")


def prepare(target: Target) -> list[str]:
    """Copy the package's code, with every change beside what it changes (mutmut's trampolines choose one as the code runs); their names.

    An earlier run's copy of the same code stands.
    """
    made, state = target.work / "changes.json", digest(target.package / "src")
    if made.is_file() and (kept := json.loads(made.read_text(encoding="utf-8")))["state"] == state:
        return list(kept["names"])
    shutil.rmtree(target.work, ignore_errors=True)
    shutil.copytree(target.package / "src", target.work / "src", ignore=shutil.ignore_patterns("__pycache__"))
    code = target.work / "src" / target.code
    names = []
    with contextlib.chdir(target.work):  # where mutmut looks for its configuration
        for path in sorted(code.rglob("*.py")) if code.is_dir() else [code]:
            changed = mutate_file_contents(str(path), path.read_text(encoding="utf-8"), None, None)
            path.write_text(changed.code, encoding="utf-8")
            module = ".".join(path.relative_to(target.work / "src").with_suffix("").parts).removesuffix(".__init__")
            names.extend(f"{module}.{name}" for name in changed.mutant_names)
    made.write_text(json.dumps({"state": state, "names": names}), encoding="utf-8")
    return names


def digest(folder: Path) -> str:
    """Of the Python files in it but tests, and of mutmut's version: what is known of changes and of tests holds for these alone."""
    found = hashlib.sha256(version("mutmut").encode())
    for path in sorted(path for path in folder.rglob("*.py") if not path.name.startswith("test_")):
        found.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return found.hexdigest()[:16]


def sample(names: Mapping[Target, list[str]], size: int, seed: int) -> dict[Target, list[str]]:
    """``size`` of the changes, of each target in proportion to how many it has."""
    total = sum(map(len, names.values()))
    chosen = {}
    for target, of_target in names.items():
        draw = random.Random(f"{seed} {target.name}")  # noqa: S311 - a choice that repeats, no secret
        chosen[target] = draw.sample(of_target, min(len(of_target), max(1, round(size * len(of_target) / total))))
    return chosen


def test(target: Target, names: list[str], budget: float, arguments: list[str]) -> dict[str, str]:
    """How the tests of each change ended: "survived", "killed" or "timeout". Raises ``SystemExit`` where they fail on the code as it is."""
    plan, results = target.work / "plan.json", target.work / "results.json"
    kept = WORK / "measured" / f"{target.name.replace('/', '-')}-{digest(target.package)}"
    kept.mkdir(parents=True, exist_ok=True)
    functions = {name: mangled_name_from_mutant_name(name) for name in names}
    plan.write_text(
        json.dumps({
            "functions": functions,
            "code": str(target.work),
            "jobs": int(os.environ.get("JOBS", "2")),
            "budget": budget,
            "kept": str(kept),
            "results": str(results),
        }),
        encoding="utf-8",
    )  # fmt: skip
    plugins = ("_hypothesis_pytestplugin", "pytest_timeout", "tools.mutants_session")
    command = [
        sys.executable, "-m", "pytest", "-q", "--capture=sys", "--hypothesis-profile=mutants", "--hypothesis-seed=0",
        *(f"-p{plugin}" for plugin in plugins), *arguments, str(target.package / "tests" / target.tests),
    ]  # fmt: skip
    environment = {
        "PYTHONPATH": str(target.work / "src"),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "LLMASOS_MUTANTS": str(plan),
    }
    if subprocess.run(command, cwd=ROOT, env=os.environ | environment, check=False).returncode:
        raise SystemExit(f"The tests of {target.name} did not run.")
    return dict(json.loads(results.read_text(encoding="utf-8")))


def difference(target: Target, name: str) -> str:
    """A change, as a diff of the function."""
    module, _, changed = name.rpartition(".")
    path = target.work / "src" / Path(*module.split("."))
    texts = functions(path / "__init__.py" if path.is_dir() else path.with_suffix(".py"))
    original = f"{mangled_name_from_mutant_name(changed)}__mutmut_orig"
    lines = (texts[each].replace(each, original).splitlines() for each in (original, changed))
    return "\n".join(list(difflib.unified_diff(*lines, lineterm="", n=2))[2:])


@functools.cache
def functions(path: Path) -> dict[str, str]:
    """The text of each function of a file that ``prepare`` wrote, by its name there."""
    source = path.read_text(encoding="utf-8")
    lines = source.splitlines()
    return {
        node.name: "\n".join(lines[node.lineno - 1 : node.end_lineno])
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def report(target: Target, results: Mapping[str, str]) -> Iterator[str]:
    """The changes that survived."""
    for name in sorted(name for name, result in results.items() if result == "survived"):
        yield f"\n{name}\n{difference(target, name)}"


def main(names: list[str]) -> int:
    parser = argparse.ArgumentParser(prog='make mutants TARGET="..." ARGS="..."', allow_abbrev=False)
    parser.add_argument("--sample", type=int, help="test a random choice of so many changes")
    parser.add_argument("--seed", type=int, default=1, help="of the choice (1)")
    parser.add_argument("--budget", type=float, default=60, help="seconds of the tests of a change (60)")
    options, arguments = parser.parse_known_args(shlex.split(os.environ.get("ARGS", "")))
    changes = {target: prepare(target) for target in map(Target.find, names or TARGETS)}
    tested = changes if options.sample is None else sample(changes, options.sample, options.seed)
    counts = {}
    for target, chosen in tested.items():
        results = test(target, chosen, options.budget, arguments)
        print(*report(target, results), sep="\n")
        counts[target] = Counter(results.values())
    for target, count in counts.items():
        total, survived = count.total(), count["survived"]
        print(
            f"{target.name}: {survived} of {total} changes survived ({survived / max(total, 1):.0%}), {count['timeout']} ran out of time; "
            f"{len(changes[target])} can be made"
        )
    survived, total = sum(count["survived"] for count in counts.values()), sum(count.total() for count in counts.values())
    print(f"In all: {survived} of {total} ({survived / max(total, 1):.0%})")
    return int(survived > ALLOWED * total)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
