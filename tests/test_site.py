"""The documentation: its links lead somewhere, its navigation is whole, every public name and option is in the reference, and its examples
are true. `make docs` builds the site and checks that too; these tests build nothing."""

from __future__ import annotations

import contextlib
import inspect
import io
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.printed_commands import blocks
from tools import drawings
from tools.site import components, links, pages, verbs

import llmasos
import llmasos_hookspecs
from llmasos.api.model import LanguageModel
from llmasos.cli import invoke
from llmasos.system.components import load_component
from llmasos_config import Config
from llmasos_hookspecs import testing
from llmasos_options import describe

ROOT = Path(__file__).parents[1]
DOCS = sorted((ROOT / "docs").rglob("*.md"))
DOCUMENTS = [*DOCS, *sorted({*ROOT.glob("*.md"), *(ROOT / path for path in pages.packages())})]
#: Pages whose examples run: those of users, in both languages.
RUN = [ROOT / "README.md", *(path for path in DOCS if path.parent.name in ("guide", "zh") or path.name in ("index.md", "start.md"))]
#: Those whose examples take seconds each, and show in other words what another page or the tests of what they show do, are marked `long`.
SLOW = (
    "README.md",
    "zh/index.md",
    "accelerate.md",
    "batch.md",
    "generate.md",
    "assistant.md",
    "chat.md",
    "constrained.md",
    "load.md",
    "schedulers.md",
    "tasks.md",
    "guide.md",
)


def ids(path: Path) -> str:
    return str(path.relative_to(ROOT))


def anchors(path: Path) -> set[str]:
    """The anchors of a document's headings, as the site and GitHub make them."""
    titles = [line.lstrip("#").strip() for _, line in links.outside_code(path.read_text(encoding="utf-8")) if line.startswith("#")]
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", title.lower()).strip()) for title in titles}


@pytest.mark.parametrize("path", DOCUMENTS, ids=ids)
def test_every_link_of_a_document_leads_to_a_file_and_a_heading_of_it(path: Path) -> None:
    made = set(pages.generated())
    for target in links.targets(path.read_text(encoding="utf-8")):
        if not links.is_relative(target) and not target.startswith("#"):
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        inside = file.relative_to(ROOT / "docs").as_posix() if file.is_relative_to(ROOT / "docs") else ""
        assert file.exists() or inside in made, target
        if anchor and file.suffix == ".md" and file.exists():
            assert anchor in anchors(file), target


def test_the_navigation_has_every_page_once_and_no_other() -> None:
    config = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), yaml.BaseLoader)
    listed = list(leaves(config["nav"]))
    written = {path.relative_to(ROOT / "docs").as_posix() for path in DOCS}
    patterns = [entry.removesuffix("*") for entry in listed if entry.endswith("*")]
    made = {uri for uri in set(pages.generated()) if not uri.startswith(tuple(patterns))}
    named = [entry for entry in listed if not entry.endswith("*")]
    assert len(named) == len(set(named))
    assert set(named) == written | made


def leaves(entry: Any) -> Iterator[str]:
    if isinstance(entry, str):
        yield entry
    for below in entry.values() if isinstance(entry, dict) else entry if isinstance(entry, list) else ():
        yield from leaves(below)


def test_every_public_name_is_in_the_reference_and_documented() -> None:
    """Of llmasos, of the contract and of its conformance kit; a constant is documented by the ``#:`` comment above it."""
    python = (ROOT / "docs" / "reference" / "python.md").read_text(encoding="utf-8")
    reference = python + "".join(text for page, text in pages.generated().items() if page.startswith("reference/"))
    named = {directive.rpartition(".")[2] for directive in re.findall(r"^::: (\S+)$", reference, re.M)}
    for package in (llmasos, llmasos_hookspecs, testing):
        assert sorted(set(package.__all__) - named) == []
        assert [name for name in package.__all__ if not documented(package, name)] == []


def documented(package: Any, name: str) -> bool:
    value = getattr(package, name)
    if inspect.isroutine(value) or inspect.ismodule(value):
        return bool(inspect.getdoc(value))
    if inspect.isclass(value):
        return bool(value.__doc__)
    files = Path(package.__file__).parent.rglob("*.py")
    return any(re.search(rf"^#:.*\n{name}\b", file.read_text(encoding="utf-8"), re.M) for file in files)


def test_every_method_of_the_public_classes_says_what_it_does() -> None:
    for name in llmasos.__all__:
        cls = getattr(llmasos, name)
        for method, value in vars(cls).items() if inspect.isclass(cls) else ():
            if not method.startswith("_") and (callable(value) or isinstance(value, property | classmethod)):
                assert inspect.getdoc(value), f"{name}.{method}"


def test_every_option_of_every_component_is_in_the_reference_with_its_meaning() -> None:
    for kind in components.kinds_with_options():
        page = components.kind_page(kind)
        for entry in components.own_components(kind):
            assert f"## {kind} `{entry.name}`" in page
            for field in describe(load_component(entry).component.options):
                assert field.help, f"{entry.label}: {field.key}"
                assert f"| `{field.key}` |" in page


def test_every_verb_is_in_the_reference_with_its_options() -> None:
    page = verbs.page()
    found = dict(verbs.commands())
    assert {"llmasos run", "llmasos models pull", "llmasos plugins new", "llmasos keys create", "llmasos task --batch"} <= set(found)
    for verb, command in found.items():
        assert f"## `{verb}`" in page
        for option in (name for param in command.params for name in param.opts if name.startswith("-")):
            assert option in page, f"{verb} {option}"


def test_every_package_has_a_page() -> None:
    named = {tomllib.loads(path.read_text(encoding="utf-8"))["project"]["name"] for path in ROOT.glob("[!.]*/*/pyproject.toml")}
    assert {f"packages/{name}.md" for name in named - examples()} <= set(pages.generated())


def examples() -> set[str]:
    return {tomllib.loads(path.read_text(encoding="utf-8"))["project"]["name"] for path in ROOT.glob("examples/*/pyproject.toml")}


def test_links_to_documents_outside_of_docs_lead_to_their_pages() -> None:
    known = {"SECURITY.md": "security.md", "docs/gguf.md": "gguf.md", "docs/guide/a.md": "guide/a.md"}
    text = "[s](../SECURITY.md#files)\n```\n[d](../SECURITY.md)\n```\n[e](https://example.org) [f](../core/x.py)\n"
    expected = "[s](security.md#files)\n```\n[d](../SECURITY.md)\n```\n[e](https://example.org) f\n"
    assert links.rewritten(text, "docs/a.md", "a.md", known) == expected
    assert links.rewritten("[g](../../docs/gguf.md)", "plugins/x/README.md", "packages/x.md", known) == "[g](../gguf.md)\n"


@pytest.mark.parametrize("path", DOCUMENTS, ids=ids)
def test_the_code_of_a_document_is_code(path: Path) -> None:
    for language, code, _ in blocks(path):
        if language == "python":
            compile(code, path.name, "exec", dont_inherit=True)
        elif language == "toml":
            tomllib.loads(code)
        elif language == "json":
            json.loads(code)


@pytest.mark.parametrize("path", [path for path in DOCS if "zh" in path.parts or path in RUN], ids=ids)
def test_the_configs_of_a_page_are_configs(path: Path) -> None:
    for language, code, _ in blocks(path):
        if language == "toml":
            Config.from_mapping(tomllib.loads(code))


def test_nothing_of_a_page_comes_from_elsewhere() -> None:
    for path in DOCS:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"!\[[^\]]*\]\(https?:|<(script|img|iframe|link)\b|```mermaid", text), path.name


def test_the_drawings_are_those_that_the_tool_draws() -> None:
    assert {path.name: path.read_text(encoding="utf-8") for path in drawings.FOLDER.glob("*.svg")} == {
        name: make() for name, make in drawings.PICTURES.items()
    }


@pytest.fixture
def models(smollm2: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What pages load is SmolLM2 in float32, so that their outputs are those of every machine; it is freed at the end."""
    load, opened = llmasos.load_model, []

    def load_model(source: str, **how: Any) -> LanguageModel:
        if not how:
            return smollm2
        opened.append(load(source, **{"loader": {"use": "onnx", "precision": "fp32"}, **how}))
        return opened[-1]

    monkeypatch.setattr(llmasos, "load_model", load_model)
    yield
    for model in opened:
        model.close()
    llmasos.resources.configure(memory=None, threads=None)


@pytest.mark.model
@pytest.mark.parametrize("path", [pytest.param(path, marks=[pytest.mark.long] * ids(path).endswith(SLOW), id=ids(path)) for path in RUN])
def test_the_examples_of_a_page_print_what_it_says(path: Path, models: None) -> None:
    """A block of text below a block of Python is what that prints; a block without one runs too."""
    namespace: dict[str, Any] = {"__name__": "page"}
    printed = None
    for language, code, not_run in blocks(path):
        if language == "python" and not not_run:
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(compile(code, path.name, "exec", dont_inherit=True), namespace)
            printed = out.getvalue()
        elif language == "text" and printed is not None:
            assert printed == code
            printed = None


def shown_commands() -> Iterator[tuple[str, str]]:
    """The commands of consoles in pages that show an output, each with it; those of "Ten minutes" need each other, and `test_first_hour.py`
    types them."""
    found = {}
    for path in (path for path in RUN if path.name != "start.md"):
        for language, code, _ in blocks(path):
            for command, output in re.findall(r"^\$ llmasos (.*)\n((?:[^$].*\n)*)", code if language == "console" else "", re.M):
                found |= {command: output} if output else {}
    yield from found.items()


@pytest.mark.model
@pytest.mark.long  # on each change `test_first_hour.py` types others that show what the model says
@pytest.mark.parametrize(("command", "output"), list(shown_commands()))
def test_a_command_of_a_page_prints_what_it_says(
    command: str, output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "llmasos.toml"
    config.write_text('[loader]\nuse = "onnx"\nprecision = "fp32"\n', encoding="utf-8")
    monkeypatch.setenv("LLMASOS_CONFIG", str(config))
    monkeypatch.chdir(tmp_path)
    words = shlex.split(command)
    invoke([*words, "--no-log"] if words[0] == "run" else words)
    printed = capsys.readouterr()
    assert printed.out + printed.err == output


def test_the_table_of_expectations_has_forty_rows_each_with_an_answer_and_a_link() -> None:
    text = (ROOT / "docs" / "expectations.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| .+ \| (llm|Ollama|transformers) \| (yes|partly|no) \| .*\]\([\w/.#-]+\) \|$", text, re.M)
    assert [int(number) for number, _, _ in rows] == list(range(1, 41))
    assert sum(answer == "yes" for _, _, answer in rows) >= 34


def test_notes_of_changes_have_a_kind_that_the_release_knows() -> None:
    kinds = {
        each["directory"] for each in tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["towncrier"]["type"]
    }
    notes = [path.name for path in (ROOT / "changelog.d").iterdir() if path.name != "README.md"]
    assert [name for name in notes if not re.fullmatch(rf"\+?[\w-]+\.({'|'.join(kinds)})\.md", name)] == []


def test_the_recorded_terminal_is_small_and_fetches_no_font() -> None:
    picture = (ROOT / "docs" / "terminal.svg").read_text(encoding="utf-8")
    assert len(picture) < 200_000
    assert "llmasos" in picture
    assert re.findall(r"(?:url\(|href=)[\"']?(https?:[^\"')]+)", picture) == []
