"""Import boundaries between core, hookspecs, libs and plugins, and the cost of an import."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PLUGINS = sorted(f"plugins/{path.parent.name}" for path in (ROOT / "plugins").glob("*/pyproject.toml"))
LIBS = sorted(f"libs/{path.parent.name}" for path in (ROOT / "libs").glob("*/pyproject.toml"))
#: What any plugin or lib may use of this project, by import name; beside it, only itself.
SHARED = frozenset({"llmasos_hookspecs", *(f"llmasos_{path.removeprefix('libs/')}" for path in LIBS)})
FRAMEWORKS = ("torch", "tensorflow", "onnxruntime", "onnx", "openvino", "transformers", "keras", "jax")


def statements(block: ast.AST) -> Iterator[ast.AST]:
    """Those within a block, however deep. Most nodes of a file are expressions, which import nothing."""
    for part in ("body", "orelse", "finalbody", "handlers", "cases"):
        for each in getattr(block, part, ()):
            yield each
            yield from statements(each)


#: A string over several lines, and a statement that imports, as this project's formatter writes them.
STRING = re.compile(r'("""|\'\'\')(?:\\.|(?!\1).)*\1', re.DOTALL)
IMPORT = re.compile(r"^ *(?:import (?P<modules>[\w., ]+)|from (?P<module>\w[\w.]*) import )", re.MULTILINE)


@functools.cache
def imported(folder: Path) -> tuple[tuple[Path, str], ...]:
    """Each file below a folder with the top-level name of each module that it imports."""
    found = list[tuple[Path, str]]()
    for path in folder.rglob("*.py"):
        for statement in IMPORT.finditer(STRING.sub("", path.read_text(encoding="utf-8"))):
            names = statement["modules"].split(",") if statement["modules"] else [statement["module"]]
            found += ((path, name.strip().partition(".")[0].partition(" ")[0]) for name in names)
    return tuple(found)


@pytest.mark.long  # to parse all sources takes longer than all that is asked of them below
@pytest.mark.parametrize("package", ["hookspecs", "core", *LIBS, *PLUGINS])
def test_imports_are_found_as_python_parses_them(package: str) -> None:
    found = list[tuple[Path, str]]()
    for path in (ROOT / package / "src").rglob("*.py"):
        for node in statements(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found += ((path, alias.name.partition(".")[0]) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.append((path, node.module.partition(".")[0]))
    assert sorted(found) == sorted(imported(ROOT / package / "src"))


@pytest.mark.parametrize("package", [*LIBS, *PLUGINS])
def test_a_plugin_or_lib_imports_the_contract_and_libs_only(package: str) -> None:
    """It knows neither the system that calls it nor another plugin."""
    folder = ROOT / package / "src"
    allowed = SHARED | {path.name for path in folder.iterdir()}
    assert [(str(path), name) for path, name in imported(folder) if name.startswith("llmasos") and name not in allowed] == []


@pytest.mark.parametrize("package", [*LIBS, *PLUGINS])
def test_a_plugin_or_lib_requires_what_it_imports_of_this_project_and_nothing_else_of_it(package: str) -> None:
    """Its pyproject names the contract and the libs that its modules import, under extras where only an option needs them."""
    project = tomllib.loads((ROOT / package / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    requirements = [*project["dependencies"], *(each for extra in project.get("optional-dependencies", {}).values() for each in extra)]
    own = {path.name for path in (ROOT / package / "src").iterdir()}
    required = {name.replace("-", "_") for name in (re.split(r"[^\w-]", each)[0] for each in requirements) if name.startswith("llmasos")}
    assert required == {name for _, name in imported(ROOT / package / "src") if name.startswith("llmasos")} - own


def test_core_never_imports_a_plugin() -> None:
    """Core reaches plugins through their entry points only; it may share libs with them, and requires those that it imports."""
    names = {name for _, name in imported(ROOT / "core" / "src") if name.startswith("llmasos")} - {"llmasos"}
    project = tomllib.loads((ROOT / "core" / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    required = {re.split(r"[^\w-]", each)[0].replace("-", "_") for each in project["dependencies"] if each.startswith("llmasos")}
    assert names <= SHARED
    assert required == names


@pytest.mark.parametrize("lib", ["engine", "isolation", "options", "plugin_calls"])
def test_the_lowest_libs_of_core_import_the_contract_only(lib: str) -> None:
    """Of this project's packages, their own modules and hookspecs: the engine's loop, say, can be read and simulated with them alone."""
    names = {name for _, name in imported(ROOT / "libs" / lib / "src")}
    assert {name for name in names if name.startswith("llmasos")} == {f"llmasos_{lib}", "llmasos_hookspecs"}


def test_no_libs_import_one_another_in_a_circle() -> None:
    """Each can be installed with those below it alone."""
    below = {
        lib: {name for _, name in imported(ROOT / lib / "src") if name in SHARED} - {f"llmasos_{lib.removeprefix('libs/')}"} for lib in LIBS
    }
    TopologicalSorter({f"llmasos_{lib.removeprefix('libs/')}": names for lib, names in below.items()}).prepare()


def test_hookspecs_imports_neither() -> None:
    """The contract needs only pluggy, attrs and numpy; the conformance kit what its extra ``testing`` brings besides."""
    allowed = {"pluggy", "attrs", "numpy", "llmasos_hookspecs", *sys.stdlib_module_names}
    kit = {"pytest", "_pytest", "hypothesis", "llguidance"}
    found = [(path, name) for path, name in imported(ROOT / "hookspecs" / "src") if name not in allowed]
    assert [(str(path), name) for path, name in found if name not in kit or "testing" not in path.parts] == []


def test_no_framework_is_imported_before_it_is_needed() -> None:
    """Importing, listing and configuring cost no framework: not one after all of them, each of which is named if it does."""
    steps = (
        "import llmasos",
        "import llmasos; llmasos.load_model; llmasos.Pipeline; llmasos.resources",
        "from llmasos.cli import invoke; invoke(['plugins', 'list'])",
        "from llmasos.cli import invoke; invoke(['config', 'show'])",
    )
    check = f"""
import sys
for step in {steps!r}:
    exec(step)
    if found := [name for name in {FRAMEWORKS!r} if name in sys.modules]:
        sys.exit(f"{{step}} imports {{', '.join(found)}}")
"""
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_a_load_imports_nothing_that_only_some_need() -> None:
    """An event loop is for those who await, ONNX's messages for a graph that is not built yet: together a tenth of a load's time."""
    code = "import sys, llmasos, llmasos_backend_onnx.loading, llmasos_format_gguf.tokenizer; llmasos.load_model; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert "onnxruntime" in done.stdout.split()
    assert {"asyncio", "onnx", "torch", "transformers"}.isdisjoint(done.stdout.split())


@pytest.mark.parametrize(
    "code",
    [
        "import llmasos_backend_onnx.foreign.graph; sys.modules.pop('onnx')",
        "import llmasos_backend_torch.exported.archive",
        "import llmasos_backend_tf.keras_inspection",
        "import llmasos_backend_tf.saved_functions as s; s._without_tensorflow(); import tensorflow.core.protobuf.saved_model_pb2;"
        " assert 'tensorflow.python' not in sys.modules; del sys.modules['tensorflow']",
    ],
)
def test_a_first_inspection_needs_no_framework(code: str) -> None:
    """What checks foreign files in a child process starts quickly; ONNX needs the package of its messages."""
    check = f"import sys; {code}; found = [n for n in {FRAMEWORKS!r} if n in sys.modules]; sys.exit(', '.join(found) or 0)"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.long  # test_walls.py sees on each change that no modules import one another in a circle
def test_every_module_of_core_can_be_imported_first() -> None:
    """No module needs another to be imported before it: children of core begin with any of them."""
    names = [".".join(path.relative_to(ROOT / "core" / "src").with_suffix("").parts) for path in (ROOT / "core" / "src").rglob("*.py")]
    modules = sorted(name.removesuffix(".__init__") for name in names if not name.endswith("__main__") and ".templates" not in name)
    code = """
import importlib, sys
for name in sys.argv[1:]:
    for each in [each for each in sys.modules if each == "llmasos" or each.startswith("llmasos.")]:
        del sys.modules[each]
    try:
        importlib.import_module(name)
    except ImportError as error:
        print(f"{name}: {error}")
"""
    done = subprocess.run([sys.executable, "-c", code, *modules], capture_output=True, text=True, timeout=600, check=True)
    assert done.stdout == ""


def test_importing_llmasos_imports_next_to_nothing() -> None:
    """``import llmasos`` alone brings no third-party module at all."""
    code = "import sys; before = set(sys.modules); import llmasos; print(*sorted({n.partition('.')[0] for n in set(sys.modules) - before}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert set(done.stdout.split()) - set(sys.stdlib_module_names) == {"llmasos"}


@pytest.mark.parametrize("package", ["hookspecs", "core", *LIBS, *PLUGINS])
def test_every_package_has_what_a_package_needs(package: str) -> None:
    """pyproject, README, typed source and tests of its own."""
    folder = ROOT / package
    assert (folder / "README.md").read_text(encoding="utf-8").startswith("# ")
    assert list(folder.glob("src/*/py.typed"))
    assert list(folder.glob("tests/**/test_*.py"))
    assert (folder / "pyproject.toml").is_file()
