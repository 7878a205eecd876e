"""An archive made by a stranger is unpacked inside its folder or refused in one sentence."""

from __future__ import annotations

import gzip
import io
import os
import struct
import tarfile
import tracemalloc
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from llmasos_fetch_kit import archives
from llmasos_fetch_kit.archives import is_archive, safe_path, unpack
from llmasos_hookspecs import SourceError


def make_tar(path: Path, members: list[tuple[str, bytes | tarfile.TarInfo]], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as tape:
        for name, content in members:
            if isinstance(content, tarfile.TarInfo):
                tape.addfile(content)
            else:
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                tape.addfile(entry, io.BytesIO(content))
    return path


def make_zip(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, content in members:
            bundle.writestr(name, content)
    return path


def link(name: str, target: str, kind: bytes) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, target
    return entry


def make(folder: Path) -> Path:
    folder.mkdir()
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "out" / "inner"
    path.mkdir(parents=True)
    return path


def outside(folder: Path) -> list[str]:
    return [path.name for path in folder.parent.iterdir() if path != folder]


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tgz", "a.tar.xz", "a.tar.bz2"])
def test_each_kind_is_unpacked(tmp_path, folder, name):
    members = [("m/config.json", b"{}"), ("m/weights.safetensors", bytes(3000))]
    mode = {".gz": "w:gz", ".tgz": "w:gz", ".xz": "w:xz", ".bz2": "w:bz2"}.get(Path(name).suffix, "w")
    path = make_zip(tmp_path / name, members) if name.endswith("zip") else make_tar(tmp_path / name, members, mode)
    told: list[int] = []
    assert is_archive(path)
    assert [str(each) for each in unpack(path, folder, advance=told.append)] == ["m/config.json", "m/weights.safetensors"]
    assert (folder / "m" / "weights.safetensors").read_bytes() == bytes(3000)
    assert sum(told) == 3002


def test_only_what_is_wanted_is_unpacked(tmp_path, folder):
    path = make_zip(tmp_path / "a.zip", [("a.gguf", b"1"), ("b.py", b"2")])
    unpack(path, folder, wanted=lambda name: name.endswith(".gguf"))
    assert [each.name for each in folder.iterdir()] == ["a.gguf"]


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "a\\..\\..\\x", "C:\\x", "c:x", "..", "a\nb"])
def test_a_name_that_leads_outside_is_refused(tmp_path, folder, name):
    with pytest.raises(SourceError, match="outside"):
        unpack(make_tar(tmp_path / "a.tar", [("fine", b"1"), (name, b"2")], "w"), folder)
    assert not outside(folder)


@pytest.mark.parametrize("name", ["a" * 256, "天" * 86, "m/" + "a" * 300 + "/b"], ids=["bytes", "characters", "folder"])
@pytest.mark.parametrize("make_archive", [make_tar, make_zip])
def test_a_name_longer_than_file_systems_take_is_refused(make_archive, name, tmp_path, folder):
    path = make_archive(tmp_path / ("a.zip" if make_archive is make_zip else "a.tar.gz"), [(name, b"1")])
    with pytest.raises(SourceError, match="longer than file systems take"):
        unpack(path, folder)
    assert not list(folder.iterdir())


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(tmp_path, folder, kind):
    members = [("l", link("l", "..", kind)), ("l/x", b"escaped")]
    with pytest.raises(SourceError, match="a link or device"):
        unpack(make_tar(tmp_path / "a.tar", members, "w"), folder)
    assert not outside(folder)


def test_a_link_in_a_zip_is_refused(tmp_path, folder):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as bundle:
        entry = zipfile.ZipInfo("l")
        entry.external_attr = 0o120777 << 16
        bundle.writestr(entry, "..")
    with pytest.raises(SourceError, match="a link or device"):
        unpack(tmp_path / "a.zip", folder)


def test_a_bomb_is_refused_before_it_is_written(tmp_path, folder, monkeypatch):
    monkeypatch.setattr("llmasos_fetch_kit.archives._ALWAYS_ALLOWED", 1 << 20)
    path = make_zip(tmp_path / "a.zip", [("a.bin", bytes(64 << 20))])
    with pytest.raises(SourceError, match="far more than its own size"):
        unpack(path, folder)
    assert not list(folder.iterdir())


def test_too_many_files_are_refused(tmp_path, folder, monkeypatch):
    monkeypatch.setattr("llmasos_fetch_kit.archives._MAX_FILES", 3)
    with pytest.raises(SourceError, match="far more"):
        unpack(make_tar(tmp_path / "a.tar", [(str(i), b"") for i in range(4)], "w"), folder)


def test_more_than_the_disk_has_is_refused(tmp_path, folder, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10))
    with pytest.raises(SourceError, match="make room"):
        unpack(make_tar(tmp_path / "a.tar", [("a", bytes(11))], "w"), folder)


def test_a_file_that_comes_twice_is_refused(tmp_path, folder):
    for i, names in enumerate((("a", "a"), ("a", "a/b"), ("a/b", "a"))):
        with pytest.raises(SourceError, match="twice"):
            unpack(make_tar(tmp_path / f"{i}.tar", [(name, b"1") for name in names], "w"), make(folder / str(i)))


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz", "a.tar", "a.tar.xz"])
def test_a_truncated_archive_is_one_sentence(tmp_path, folder, name):
    members = [("a", os.urandom(30_000))]
    mode = {"a.tar.gz": "w:gz", "a.tar.xz": "w:xz"}.get(name, "w")
    path = make_zip(tmp_path / name, members) if name == "a.zip" else make_tar(tmp_path / name, members, mode)
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(SourceError, match="damaged"):
        unpack(path, folder)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_archive_is_unpacked_or_one_source_error_and_nothing_leaves_the_folder(tmp_path_factory, data):
    root = tmp_path_factory.mktemp("fuzz")
    folder = root / "out"
    folder.mkdir()
    zipped = data.draw(st.booleans())
    members = [("m/a", bytes(range(200))), ("m/b", b"b" * 50)]
    path = make_zip(root / "a.zip", members) if zipped else make_tar(root / "a.tar", members, "w")
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        unpack(path, folder)
    except SourceError as error:
        if "\n" in str(error):
            raise AssertionError("not one line") from error
    assert {each.name for each in root.iterdir()} == {"out", path.name}


@pytest.mark.parametrize("name", ["", "a\0b", "/", "./..", "a/..", "con:", "\\\\host\\share"])
def test_a_name_that_no_file_should_have_is_refused(name):
    with pytest.raises(SourceError, match="outside"):
        safe_path(name, "It")


@given(st.text(max_size=20))
def test_a_name_is_safe_or_refused(name):
    try:
        path = safe_path(name, "It")
    except SourceError:
        return
    base = Path("/base")
    assert os.path.normpath(base / path).startswith("/base/")


def long_name(path: Path, size: int, kind: bytes = tarfile.GNUTYPE_LONGNAME) -> Path:
    """A tar of a few kilobytes that says of its first file's name that it has ``size`` bytes, which compress to nothing."""
    with gzip.open(path, "wb") as file:
        header = tarfile.TarInfo("././@LongLink")
        header.type, header.size = kind, size
        file.write(header.tobuf(tarfile.GNU_FORMAT))
        block = bytes(1 << 20)
        for _ in range(min(size, 64 << 20) >> 20):
            file.write(block)
    return path


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        *((kind, 1 << 20) for kind in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE)),
        (tarfile.XHDTYPE, 2_500_000_000),
        *(
            pytest.param(kind, 2_500_000_000, marks=pytest.mark.long)
            for kind in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XGLTYPE)
        ),
    ],
)
def test_long_headers_of_a_tar_are_not_read(tmp_path, folder, size, kind):
    archive = long_name(tmp_path / "m.tar.gz", size, kind)
    tracemalloc.start()
    try:
        with pytest.raises(SourceError, match="headers are longer than any real ones"):
            unpack(archive, folder)
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()


def test_real_long_names_of_a_tar_are_read(tmp_path, folder):
    name = "/".join(["d" * 100] * 5) + "/file"
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        archive = tmp_path / f"m{form}.tar"
        with tarfile.open(archive, "w", format=form) as tape:
            for number in range(3):
                entry = tarfile.TarInfo(f"{number}/{name}")
                entry.size = 3
                tape.addfile(entry, io.BytesIO(b"abc"))
        assert len(unpack(archive, make(folder / str(form)))) == 3


def test_a_zip_that_lists_a_million_folders_is_refused_by_its_size_alone(tmp_path, folder):
    central = struct.pack("<4s4B4HL2L5H2L", b"PK\1\2", 20, 3, 20, 0, 0, 0, 0, 33, 0, 0, 0, 2, 0, 0, 0, 0, 0o040755 << 16, 0) + b"d/"
    archive = tmp_path / "m.zip"
    count = 1_000_000
    with archive.open("wb") as file:
        file.write(central * count)
        size = len(central) * count
        file.write(struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 65535, 65535, size, 0, 0))
    tracemalloc.start()
    try:
        with pytest.raises(SourceError, match="lists far more files than any model has"):
            unpack(archive, folder)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("suffix", [".zip", ".tar"])
def test_more_folders_than_any_model_has_are_refused(tmp_path, folder, suffix, monkeypatch):
    monkeypatch.setattr(archives, "_MAX_ENTRIES", 200)
    archive = tmp_path / f"m{suffix}"
    count = 201
    if suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as bundle:
            for number in range(count):
                bundle.writestr(zipfile.ZipInfo(f"{number}/"), b"")
    else:
        with tarfile.open(archive, "w") as tape:
            for number in range(count):
                entry = tarfile.TarInfo(f"{number}")
                entry.type = tarfile.DIRTYPE
                tape.addfile(entry)
    with pytest.raises(SourceError, match="more files or longer names"):
        unpack(archive, folder)


def test_a_sparse_file_of_a_tar_is_refused(tmp_path, folder):
    archive = tmp_path / "m.tar"
    entry = tarfile.TarInfo("sparse")
    entry.type = tarfile.GNUTYPE_SPARSE
    archive.write_bytes(entry.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(SourceError):
        unpack(archive, folder)
    assert not list(folder.iterdir())
