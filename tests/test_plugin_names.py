"""Core names no plugin: what it knows of them by name is data, in its catalogue."""

from __future__ import annotations

import ast
import functools
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from llmasos_hookspecs import GROUPS

ROOT = Path(__file__).parent.parent
CORE = ROOT / "core" / "src" / "llmasos"

#: Libs that the runtime is made of, which know as little of plugins as core does: those whose coverage counts as core's.
PARTS_OF_CORE: Final = tuple(
    package.removeprefix("llmasos_")
    for package in tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["coverage"]["run"]["source_pkgs"]
    if package.startswith("llmasos_") and package != "llmasos_hookspecs"
)

#: Components that core has itself.
BUILT_IN: Final = frozenset({"path", "local", "open"})

#: Names of plugins that are words of English, or of what core itself speaks of: core's sentences and identifiers may use them.
WORDS: Final = {
    "answer": "what a model or a user answers",
    "audit": "what an access control does with an event",
    "chat": "a conversation, and its template",
    "code": "exit codes, code points, code that is run",
    "complete": "finished; shell completion",
    "deadline": "a request's, and a template's time limit",
    "describe": "what models, plugins and options say of themselves",
    "cpu": "the processor",
    "embed": "what an encoder does with texts",
    "evaluate": "a function of the Python API; markers of requirements are evaluated",
    "generate": "what a model does with a prompt",
    "gguf": "the suffix of files in that format, which sources choose and sizes are estimated from",
    "isolation": "how untrusted bytes are parsed: in a process of their own",
    "keys": "what a mapping has, and what clients show",
    "merge": "what is done with an adapter, and with tables of config",
    "onnx": "the suffix of files in that format",
    "priority": "a request's",
    "quantized": "what weights are, and the tensors that hold their codes",
    "seal": "encrypt a model's files; a finished entry of the store",
    "size": "of anything",
    "speed": "whether times are measured",
    "topics": "Python's own documentation as a corpus: pydoc_data.topics",
    "top": "the likeliest tokens: top_p, top_k, top-1 agreement",
    "torch": "the library, which reads pickle files and with which a model is compared",
    "translate": "str.translate",
}

#: (file, name): literals that are a plugin's name to the letter, and mean something else.
LITERALS: Final = {
    ("__init__.py", "evaluate"): "a function of the Python API",
    ("acceleration/plan.py", "quant"): "a stage of the contract",
    ("acceleration/plan.py", "quantized"): "what a stage leaves and needs",
    ("api/model.py", "generate"): "what is recorded of a request",
    ("api/options.py", "deadline"): "an option of a generation",
    ("api/options.py", "priority"): "an option of a generation",
    ("api/runtime.py", "chat"): "a feature of a model",
    ("api/runtime.py", "embed"): "what is recorded of a request",
    ("api/runtime.py", "generate"): "a feature of a model, and a permission",
    ("api/text_encoding.py", "top"): "an argument of a ranking",
    ("api/text_encoding.py", "embed"): "what is recorded of a request",
    ("checkpoints/foreign.py", "openvino"): "a format",
    ("checkpoints/foreign.py", "onnx"): "a format, and the subfolder that holds it",
    ("cli/keeping.py", "chat"): "a form of a conversation",
    ("cli/models.py", "size"): "a column, and a key in JSON",
    ("cli/run.py", "chat"): "a form of a conversation",
    ("compose/access.py", "audit"): "a method of the contract",
    ("compose/client.py", "generate"): "a permission",
    ("compose/client.py", "priority"): "a limit of a principal",
    ("compose/generation_params.py", "deadline"): "a request's argument",
    ("compose/generation_params.py", "priority"): "a request's argument",
    ("llmasos_guards/named_guard.py", "answer"): "what a guard checked",
    ("llmasos_replicas/replica_set.py", "generate"): "a message to a replica",
    ("llmasos_plugin_calls/returned.py", "embed"): "a feature of an encoder",
    ("llmasos_plugin_calls/returned.py", "audit"): "a method of the contract",
    ("llmasos_plugin_calls/returned.py", "speak"): "a method of the contract",
    ("llmasos_model_store/store.py", "size"): "a key of an entry: of its files",
    ("llmasos_options/__init__.py", "describe"): "a function: the options of a class in words",
}


@functools.cache
def projects(folder: str) -> list[dict[str, Any]]:
    return [tomllib.loads(path.read_text(encoding="utf-8"))["project"] for path in sorted(ROOT.glob(f"{folder}/pyproject.toml"))]


def components(folder: str) -> set[str]:
    """The names of components that the packages of a folder offer."""
    return {name for project in projects(folder) for group in project.get("entry-points", {}).values() for name in group}


def documentation(tree: ast.Module) -> set[ast.AST]:
    """The docstrings of a module: examples in them may name what readers have."""
    holders = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.body[0].value for node in ast.walk(tree) if isinstance(node, holders) and node.body and isinstance(node.body[0], ast.Expr)}


def identifiers(node: ast.AST) -> set[str]:
    """The words of the name that a node uses or gives: ``fifo_queue`` and ``FifoQueue`` are fifo and queue."""
    given = [getattr(node, field, None) for field in ("id", "attr", "arg", "name")]
    return {word for name in given if isinstance(name, str) for word in words_of(name)}


@functools.cache
def words_of(identifier: str) -> tuple[str, ...]:
    return tuple(word.lower() for word in [identifier, *re.findall(r"[A-Z]?[a-z0-9]+", identifier)])


def named(file: str, text: str, names: set[str]) -> Iterator[str]:
    """``file:line name`` for each of the names that a source uses as a literal, a word of one, or a part of an identifier."""
    common = names - WORDS.keys()
    written = set(re.findall(r"[\w-]+", re.sub(r"\\[a-z]", " ", text)))
    quoted = (f"{quote}{name}{quote}" for name in names for quote in "'\"")
    if not common & written.union(*map(words_of, written)) and not any(each in text for each in quoted):
        return  # most files, which need not be parsed then
    tree = ast.parse(text)
    docstrings = documentation(tree)
    for node in ast.walk(tree):
        found: set[str] = set()
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in docstrings:
            words = set(re.findall(r"[\w-]+", node.value)) & common
            found = {name for name in words | ({node.value} & names) if (file, name) not in LITERALS}
        elif not isinstance(node, ast.Constant):
            found = identifiers(node) & common
        yield from (f"{file}:{getattr(node, 'lineno', 0)} {name}" for name in sorted(found))


def sources() -> Iterator[tuple[str, str]]:
    """Each Python source of core by its path below the package, and of the libs that the runtime is made of by its path below ``src``."""
    for path in sorted(CORE.rglob("*.py")):
        yield path.relative_to(CORE).as_posix(), path.read_text(encoding="utf-8")
    for lib in PARTS_OF_CORE:
        folder = ROOT / "libs" / lib / "src"
        for path in sorted(folder.rglob("*.py")):
            yield path.relative_to(folder).as_posix(), path.read_text(encoding="utf-8")


def test_no_source_of_core_names_a_component_of_a_plugin() -> None:
    """Neither in literals nor in identifiers: defaults and suggestions come from ``llmasos_config/catalog.toml``."""
    names = components("plugins/*")
    assert [line for file, text in sources() for line in named(file, text, names)] == []


def test_no_source_of_core_names_a_distribution_or_package_of_a_plugin_or_lib() -> None:
    """Not in comments and docstrings either; the libs that core itself requires excepted."""
    required = {re.split(r"[^\w-]", each)[0] for project in projects("core") for each in project["dependencies"]}
    distributions = {project["name"] for project in projects("plugins/*")} | {project["name"] for project in projects("libs/*")} - required
    names = distributions | {name.replace("-", "_") for name in distributions}
    assert [(file, word) for file, text in sources() for word in re.findall(r"[\w-]+", text) if word in names] == []


def test_the_check_finds_a_name_however_it_is_used() -> None:
    """Whole literals, words of sentences and parts of identifiers; not parts of words, and not docstrings."""
    text = '"""tf is fine."""\nuse = "translate"\nclass TfLoader: """A tf."""\nsay = "with tf: fast"\nfifo_queue(tf=1)\nafter = "tfx"\n'
    found = sorted(named("x.py", text, {"tf", "fifo", "translate"}))
    assert found == ["x.py:2 translate", "x.py:3 tf", "x.py:4 tf", "x.py:5 fifo", "x.py:5 tf"]


def test_every_exception_is_needed() -> None:
    """A word, a literal or a component that core no longer has leaves its list."""
    texts = dict(sources())
    names = components("plugins/*")
    assert WORDS.keys() <= names
    assert {name for _, name in LITERALS} <= names
    assert [key for key in LITERALS if f'"{key[1]}"' not in texts[key[0]]] == []
    everything = "\n".join(texts.values())
    assert [word for word in WORDS if not re.search(rf"(?<![a-z]){word}(?![a-z])", everything)] == []
    assert components("core") == BUILT_IN


def test_the_catalogue_lists_what_the_plugins_offer() -> None:
    """Each published component with its distribution, and nothing that is not there."""
    catalog = tomllib.loads((ROOT / "libs" / "config" / "src" / "llmasos_config" / "catalog.toml").read_text(encoding="utf-8"))
    listed = {
        (kind, name, distribution)
        for kind, distributions in catalog["published"].items()
        for distribution, names in distributions.items()
        for name in names
    }
    kind_of = {group: kind for kind, group in GROUPS.items()}
    offered = {
        (kind_of[group], name, project["name"])
        for folder in ("core", "plugins/*")
        for project in projects(folder)
        for group, points in project.get("entry-points", {}).items()
        if group in kind_of  # others are of a loader: operators for its graphs
        for name in points
    }
    assert listed == offered
    distributions = {project["name"] for project in projects("plugins/*")}
    assert set(catalog["faster"]) == distributions - {distribution for _, _, distribution in listed}
    published = {(kind, name) for kind, name, _ in listed}
    suggested = {*catalog["defaults"].items(), *catalog["first"].items(), *(("loader", name) for name in catalog["formats"].values())}
    sources = {name: form.partition(":")[0] for name, form in catalog["references"].items()}
    assert all(name == scheme for name, scheme in sources.items())
    targets = [alias["target"] for alias in catalog["aliases"].values()]
    suggested |= {("source", name) for name in (*sources, *(each.partition(":")[0] for each in targets if ":" in each))}
    suggested |= {("format", name) for table in ("files", "tokenizers", "quantizations") for name in catalog[table].values()}
    suggested |= {("suite", name) for name in (*catalog["measures"]["suites"], *catalog["measures"]["timed"])}
    assert suggested <= published


def test_the_sets_that_core_names_are_there() -> None:
    """``llmasos[default]`` is what the demo installs, and ``llmasos[all]`` every plugin of this repository that is not under the GPL."""
    (project,) = projects("core")
    sets = {name: {re.split(r"[^\w-]", each)[0] for each in project["optional-dependencies"][name]} for name in ("default", "all")}
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (folders,) = re.findall(r"^DEMO_PACKAGES := (.*)$", makefile, re.MULTILINE)
    assert sets["default"] == {project["name"] for folder in folders.split() if "plugins/" in folder for project in projects(folder)}
    assert sets["all"] == {project["name"] for project in projects("plugins/*") if project["license"] == "Apache-2.0"}
    assert {project["name"] for project in projects("plugins/*") if project["license"] != "Apache-2.0"} == {"llmasos-voice-piper"}
    (shown,) = re.findall(r"tools/installed_size\.py (.*)$", makefile, re.MULTILINE)
    assert set(shown.split()) == {"llmasos", *sets["default"]}
