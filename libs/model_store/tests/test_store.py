"""An entry of the model store is there whole or not at all, whoever is killed and whoever else is at work."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from llmasos_hookspecs import WORKING, ModelStore, SourceError
from llmasos_model_store.store import Store


def fill(folder: Path) -> None:
    (folder / "sub").mkdir(exist_ok=True)
    (folder / "weights.gguf").write_bytes(b"weights")
    (folder / "sub" / "config.json").write_bytes(b"{}")
    (folder / f"{WORKING}-x").write_bytes(b"gone at the end")
    (folder / f"{WORKING}-folder").mkdir(exist_ok=True)


def test_what_was_added_is_found_with_sizes_digests_source_and_licence(store):
    assert store.find("hf:a/b") is None
    path = store.add("hf:a/b", fill, source="hf:a/b@123", license_id="MIT")
    assert store.find("hf:a/b") == path
    (model,) = store.models()
    assert sorted(str(each.relative_to(path)) for each in path.rglob("*")) == ["sub", "sub/config.json", "weights.gguf"]
    assert set(model.files) == {"weights.gguf", "sub/config.json"}
    assert (model.key, model.source, model.license_id, model.size) == ("hf:a/b", "hf:a/b@123", "MIT", 9)
    assert list(store.verify()) == []
    assert not store.unfinished()


def test_the_store_is_what_the_contract_asks_for(store):
    def lent(model_store: ModelStore) -> ModelStore:
        return model_store

    assert lent(store) is store


def test_an_entry_is_filled_once(store):
    store.add("a", fill, source="x")
    store.add("a", lambda _: pytest.fail("filled again"), source="x")


def test_keys_that_look_alike_or_hold_anything_do_not_meet(store, home):
    keys = ["a/b", "a-b", "a:b", "../../etc", "", ".", "x" * 500, "ä/💾", "A/B"]
    for key in keys:
        store.add(key, lambda folder, key=key: (folder / "f").write_text(key), source="x") if key else None
    for key in keys[:4] + keys[5:]:
        assert (store.find(key) / "f").read_text() == key
    assert {path.name for path in home.parent.iterdir()} <= {"home", "work"}


def test_what_a_failed_fill_left_is_there_for_the_next_one(store):
    def breaks(folder):
        (folder / f"{WORKING}-half").write_bytes(b"half")
        raise SourceError("The network went away.")

    def resumes(folder):
        assert (folder / f"{WORKING}-half").read_bytes() == b"half"
        (folder / f"{WORKING}-half").rename(folder / "whole")

    with pytest.raises(SourceError, match="went away"):
        store.add("a", breaks, source="x")
    assert store.find("a") is None
    assert len(store.unfinished()) == 1
    assert [path.name for path in store.add("a", resumes, source="x").iterdir()] == ["whole"]


def test_a_fill_that_brings_nothing_is_refused_and_leaves_nothing(store):
    with pytest.raises(SourceError, match="brought no file"):
        store.add("a", lambda _: None, source="x")
    assert not store.unfinished()


def test_a_link_is_never_stored(store, home):
    home.mkdir()
    (home / "secret").write_text("secret")
    with pytest.raises(SourceError, match="a link, which is not stored"):
        store.add("a", lambda folder: (folder / "f").symlink_to(home / "secret"), source="x")


def test_a_full_disk_is_one_sentence_and_gives_its_room_back(store):
    def full(folder):
        (folder / "f").write_bytes(b"some")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(SourceError, match=r"The disk of the model store .* is full, so \"a\" was not stored; make room"):
        store.add("a", full, source="x")
    assert not store.unfinished()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_disk_that_is_really_full_is_one_sentence(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        small = Store(disk)
        with pytest.raises(SourceError, match="is full"):
            small.add("a", lambda folder: (folder / "f").write_bytes(bytes(1 << 20)), source="x")
        assert small.add("b", lambda folder: (folder / "f").write_bytes(bytes(1 << 10)), source="x").is_dir()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounting a folder read-only needs root")
def test_a_read_only_store_can_be_read_and_says_that_it_cannot_be_written(store):
    store.add("a", fill, source="x")
    root = str(store.root)
    for options in ("bind", "remount,bind,ro"):
        if subprocess.run(["mount", "-o", options, root, root], capture_output=True, check=False).returncode:
            pytest.skip("no folder can be mounted here")
    try:
        assert (store.find("a") / "weights.gguf").read_text() == "weights"
        assert store.add("a", fill, source="x") == store.find("a")
        assert len(store.models()) == 1
        assert list(store.verify()) == []
        for act in (lambda: store.add("b", fill, source="x"), lambda: store.remove("a")):
            with pytest.raises(SourceError, match=r"cannot be written \(Read-only file system\); set LLMASOS_HOME"):
                act()
    finally:
        subprocess.run(["umount", root], check=True)


def test_of_many_threads_at_once_one_fills_and_all_find_one_copy(store):
    filled = []

    def count(folder):
        filled.append(1)
        fill(folder)

    with ThreadPoolExecutor(8) as pool:
        paths = set(pool.map(lambda _: store.add("a", count, source="x"), range(8)))
    assert len(paths) == len(filled) == 1


WRITER = """
import os, sys
from pathlib import Path
from llmasos_model_store.store import Store
def fill(folder):
    with open(sys.argv[2], "a") as log:
        log.write("filled\\n")
    for i in range(40):
        (folder / f"{i}.bin").write_bytes(bytes([i]) * 5000)
print(Store(Path(sys.argv[1])).add("a", fill, source="x"))
"""


def test_of_two_processes_at_once_one_fills_and_both_find_one_good_copy(store, tmp_path, forked_children):
    running = [forked_children.python(WRITER, store.root, tmp_path / "log") for _ in range(3)]
    answers = {process.communicate(timeout=120)[0] for process in running}
    assert [process.returncode for process in running] == [0, 0, 0]
    assert answers == {f"{store.find('a')}\n"}
    assert (tmp_path / "log").read_text() == "filled\n"
    assert list(store.verify()) == []


def test_who_waits_for_another_is_told_so(store):
    told, begun, go_on = [], threading.Event(), threading.Event()

    def slow(folder):
        begun.set()
        assert go_on.wait(60)
        fill(folder)
        return "x", ""

    def waits():
        told.append("waiting")
        go_on.set()

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(store.fetch, "a", slow)
        assert begun.wait(60)
        second = pool.submit(store.fetch, "a", slow, waiting=waits)
        assert first.result(60) == second.result(60)
    assert told == ["waiting"]


# A fork kills itself at its n-th file system call, so that over all n it has died everywhere. Its exit code is printed.
KILLED = """
import os, signal, sys
from pathlib import Path
from llmasos_model_store.store import Store
def watch(event, arguments):
    global left
    if event in ("open", "os.rename", "os.mkdir", "os.rmdir", "os.remove") and root in str(arguments[0]):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
def fill(folder):
    for i in range(3):
        (folder / f"{i}.bin").write_bytes(bytes([i]) * 5000)
moment, code = 0, 1
while code:
    moment += 1
    child = os.fork()
    if not child:
        left, root = moment, f"{sys.argv[1]}{moment}"
        store = Store(Path(root))
        sys.addaudithook(watch)
        store.add("a", fill, source="x")
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(code)
"""


def test_killed_at_any_moment_it_leaves_no_half_entry_and_the_next_run_finishes(tmp_path, forked_children):
    said, _ = forked_children.python(KILLED, tmp_path / "store").communicate(timeout=120)
    *killed, finished = map(int, said.split())
    assert set(killed) == {-signal.SIGKILL}
    assert finished == 0
    assert len(killed) >= 10
    for moment in range(1, len(killed) + 2):
        store = Store(tmp_path / f"store{moment}")
        found = store.find("a")
        if found is not None:
            assert list(store.verify("a")) == []
            assert len(list(found.iterdir())) == 3
        path = store.add("a", lambda folder: [(folder / f"{i}.bin").write_bytes(bytes([i]) * 5000) for i in range(3)], source="x")
        assert {each.name: each.stat().st_size for each in path.iterdir()} == {f"{i}.bin": 5000 for i in range(3)}
        assert list(store.verify("a")) == []


def test_removing_frees_the_room_and_names_the_nearest_where_there_is_none(store):
    store.add("hf:org/name", fill, source="x")
    with pytest.raises(SourceError, match=r'The model store has no "hf:org/nam"; did you mean "hf:org/name"\?'):
        store.remove("hf:org/nam")
    assert store.remove("hf:org/name") > 9
    assert store.find("hf:org/name") is None
    assert store.models() == ()
    store.add("hf:org/name", fill, source="x")


def test_damage_is_found_by_verifying(store):
    path = store.add("a", fill, source="x")
    (path / "weights.gguf").write_bytes(b"weightz")
    (path / "sub" / "config.json").unlink()
    found = list(store.verify("a"))
    assert len(found) == 2
    assert all("remove the model and fetch it again" in sentence for sentence in found)
    with pytest.raises(SourceError, match="has no"):
        list(store.verify("b"))


@pytest.mark.parametrize("record", ["", "{", "[]", "{}", '{"format": 99}', '{"format": 1, "key": "a", "files": {"x": 3}}', "[" * 100_000])
def test_a_damaged_record_is_one_sentence_and_hides_no_other_entry(store, record):
    path = store.add("a", fill, source="x")
    store.add("b", fill, source="x")
    (path.parent / "entry.json").write_text(record)
    assert [model.key for model in store.models()] == ["b"]
    with pytest.raises(SourceError, match=r"damaged|another version"):
        store.get("a")
    assert len(list(store.verify())) == 1
    store.remove("a")
    assert store.add("a", fill, source="x")


def test_cleaning_takes_away_what_nobody_works_on(store):
    def breaks(folder):
        (folder / "half").write_bytes(bytes(1000))
        raise SourceError("no")

    with pytest.raises(SourceError):
        store.add("a", breaks, source="x")
    store.add("b", fill, source="x")
    assert store.clean() >= 1000
    assert not store.unfinished()
    assert store.find("b")


def test_a_file_that_an_index_changed_is_refused_even_after_the_model_was_removed(store):
    store.check_digest("x.whl", "aa")
    store.check_digest("x.whl", "aa")
    with pytest.raises(SourceError, match=r"x.whl has SHA-256 bb, and it was aa when it was first fetched"):
        store.check_digest("x.whl", "bb")
    assert json.loads((store.root / "digests.json").read_text()) == {"x.whl": "aa"}
