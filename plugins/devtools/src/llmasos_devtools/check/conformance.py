"""``plugins check``: a plugin against the contract, by the conformance kit, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Protocol
from xml.etree import ElementTree

import attrs

from llmasos_hookspecs import GROUPS, KINDS, ComponentEntry, PluginError

_TESTS: Final = """
from llmasos_hookspecs.testing import {cls}

class Test{number}({cls}):
    kind = {kind!r}
    module = {module!r}
    {example}
"""

#: Seconds that a plugin's tests may take.
_PATIENCE: Final = 1800


class Python(Protocol):
    """``CommandContext.python``: the command line of an interpreter of its own."""

    def __call__(self, code: str, *arguments: str, first: Sequence[Path] = ()) -> list[str]: ...


@attrs.frozen(kw_only=True)
class CheckedTest:
    """One test that was run.

    Attributes:
        subject: the component, as ``kind "name"``, or ``its own tests``.
        test: name of the test.
        outcome: ``passed``, ``failed`` or ``skipped``.
        message: why it failed or was skipped, in one line.
    """

    subject: str
    test: str
    outcome: str
    message: str = ""


@attrs.frozen
class PluginSource:
    """A plugin package that need not be installed: its components, and where its modules are imported from."""

    folder: Path
    import_folder: Path
    components: tuple[tuple[str, str, str], ...]  # kind, name, module


def read_package(folder: Path) -> PluginSource:
    """The components of a package folder, from its ``pyproject.toml``.

    Raises:
        PluginError: there is none, or it announces no component of LLMasOS.
    """
    file = folder / "pyproject.toml"
    try:
        project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
        points: Mapping[str, Mapping[str, str]] = project.get("entry-points", {})
        found = tuple(
            (kind, str(name), str(module)) for kind, group in GROUPS.items() for name, module in sorted(points.get(group, {}).items())
        )
    except OSError as error:
        raise PluginError(
            f"{file} cannot be read ({error.strerror}); give a plugin package's folder, or an installed component."
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, KeyError, AttributeError) as error:
        raise PluginError(f"{file} is no pyproject.toml of a package: {error}.") from error
    if not found:
        raise PluginError(f"{file} announces no component; it needs a table such as [project.entry-points.{GROUPS['scheduler']!r}].")
    return PluginSource(folder, folder / "src" if (folder / "src").is_dir() else folder, found)


def check_package(source: PluginSource, python: Python) -> tuple[CheckedTest, ...]:
    """The kit on each component, and the package's own tests where it has any."""
    tests = list(_check(python, source.components, [source.import_folder]))
    if (source.folder / "tests").is_dir():
        tests.extend(_run(python, source.folder / "tests", source.folder, [source.import_folder], lambda _: "its own tests"))
    return tuple(tests)


def check_installed(entry: ComponentEntry, python: Python, example: Mapping[str, Any] | None = None) -> tuple[CheckedTest, ...]:
    """The kit on an installed component; ``example`` gives a task's inputs that the kit cannot make up."""
    return tuple(_check(python, [(entry.kind, entry.name, entry.module)], [], example))


def _check(
    python: Python, components: Sequence[tuple[str, str, str]], paths: Sequence[Path], example: Mapping[str, Any] | None = None
) -> Iterator[CheckedTest]:
    given = f"example = {dict(example)!r}" if example else ""
    with tempfile.TemporaryDirectory() as folder:
        code = [
            _TESTS.format(cls=KINDS[kind].check, number=n, kind=kind, module=module, example=given if kind == "task" else "")
            for n, (kind, _, module) in enumerate(components)
        ]
        file = Path(folder, "test_conformance.py")
        file.write_text("\n".join(code), encoding="utf-8")
        # Else pytest would look for settings above the temporary folder.
        Path(folder, "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
        subjects = {f"Test{n}": f'{kind} "{name}"' for n, (kind, name, _) in enumerate(components)}
        yield from _run(python, file, Path(folder), paths, lambda cls: subjects.get(cls, "the module"))


def _run(python: Python, tests: Path, folder: Path, paths: Sequence[Path], subject: Callable[[str], str]) -> Iterator[CheckedTest]:
    if find_spec("pytest") is None:
        raise PluginError("Plugins are checked with pytest, which is not installed; pip install 'llmasos-hookspecs[testing]'.")
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch, "report.xml")
        arguments = ("-q", "-p", "no:cacheprovider", f"--rootdir={folder}", f"--junitxml={report}", str(tests))
        command = python("import pytest, sys; sys.exit(pytest.main())", *arguments, first=paths)
        try:
            done = subprocess.run(
                command,
                cwd=folder,
                env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_PATIENCE,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise PluginError(f"{tests} was not done after {_PATIENCE} seconds; run it by itself with pytest.") from error
        if not report.is_file():
            lines = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
            raise PluginError(f"pytest could not run {tests}: {lines[-1][:300].rstrip('.')}.")
        cases = ElementTree.parse(report).getroot().iter("testcase")  # noqa: S314  # written by the pytest that we started
        found = [_read(case, subject) for case in cases]
    if not found:
        raise PluginError(f"pytest found no test in {tests}; name files test_*.py.")
    yield from found


def _read(case: ElementTree.Element, subject: Callable[[str], str]) -> CheckedTest:
    cls = case.get("classname", "").rpartition(".")[2]
    outcome, message = "passed", ""
    for tag, word in (("failure", "failed"), ("error", "failed"), ("skipped", "skipped")):
        found = case.find(tag)
        if found is not None:
            outcome, message = word, (found.get("message") or found.text or "").strip().partition("\n")[0]
    return CheckedTest(subject=subject(cls), test=case.get("name", ""), outcome=outcome, message=message)
