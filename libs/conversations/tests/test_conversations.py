"""Conversations: kept turn by turn in one file, found again by name, number and words."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from llmasos_conversations.store import ConversationStore, default_folder
from llmasos_hookspecs import LLMasOSError, RequestError


def turn(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


@pytest.fixture
def store(tmp_path: Path) -> ConversationStore:
    return ConversationStore(tmp_path / "kept")


def test_conversations_are_kept_listed_and_removed(store: ConversationStore) -> None:
    assert store.summaries() == ()
    store.append("otters", turn("你好", "🙂"), system="Be kind.")
    store.append("otters", turn("And?", "Yes."))
    store.append("水獭", turn("你好", "🙂"))
    assert store.names() == ("otters", "水獭")
    assert store.load("otters").messages == (*turn("你好", "🙂"), *turn("And?", "Yes."))
    assert store.load("otters").system == "Be kind."
    assert {item.name: item.turns for item in store.summaries()} == {"otters": 2, "水獭": 1}
    store.delete("otters")
    assert store.names() == ("水獭",)
    with pytest.raises(RequestError, match='no conversation "otters"'):
        store.delete("otters")


def test_reading_where_nothing_is_kept_makes_no_file_and_no_folder(store: ConversationStore, tmp_path: Path) -> None:
    """Whatever is asked, the answer is that of an empty store; a folder that is there stays empty."""
    for _ in range(2):
        assert (store.names(), store.summaries(), store.search("otters"), store.last()) == ((), (), (), None)
        assert store.load("otters").messages == ()
        assert (store.has("otters"), store.keeps_all, store.clear(named=True)) == (False, True, 0)
        for act in (store.find, store.delete):
            with pytest.raises(RequestError, match='no conversation "otters"'):
                act("otters")
        assert [path.name for path in tmp_path.rglob("*")] == ([store.path.parent.name] if store.path.parent.exists() else [])
        store.path.parent.mkdir(exist_ok=True)


def test_a_folder_that_cannot_be_looked_at_is_one_sentence(tmp_path: Path) -> None:
    store = ConversationStore(tmp_path / ("long" * 100))
    for act in (store.names, store.clear, lambda: store.search("otters"), lambda: store.append("a", turn("b", "c"))):
        with pytest.raises(LLMasOSError, match=r"conversations\.db cannot be read or written \(File name too long\)"):
            act()


def test_a_conversation_without_a_name_has_its_number(store: ConversationStore) -> None:
    """It grows, is found as the last one, and can be named, but not by a name that another one has."""
    first, numbers = store.add(None, turn("one", "1"), model="smollm2", system="Count.")
    second, _ = store.add(None, turn("Once", " upon"), form="text")
    assert [each.name for each in store.summaries()] == [str(second), str(first)]
    last = store.last("chat")
    assert last is not None
    assert (last.number, last.model, last.system, last.label) == (first, "smollm2", "Count.", str(first))
    assert store.add(first, turn("two", "2"))[0] == first
    store.take_back(numbers)
    assert store.find(str(first)).messages == tuple(turn("two", "2"))
    store.rename(first, "counting")
    assert store.find("counting") == store.find(str(first))
    with pytest.raises(RequestError, match="already"):
        store.rename(second, "counting")
    with pytest.raises(RequestError, match='did you mean "counting"'):
        store.find("countin")


def test_what_was_removed_meanwhile_is_begun_anew(store: ConversationStore) -> None:
    number, _ = store.add(None, turn("one", "1"))
    store.delete(str(number))
    again, _ = store.add(number, turn("two", "2"))
    assert again != number
    assert store.find(str(again)).messages == tuple(turn("two", "2"))


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("otters", ["a", "b"]),
        ("OTTERS swim", ["a"]),
        ("天气", ["c"]),
        ("今天天气很好", ["c"]),
        ("go", ["b"]),
        ('say "so"', ["d"]),
        ("100%", ["d"]),
        ("%", ["d"]),
        ("_", []),
        ("NOT OR NEAR(", []),
        ("walrus", []),
    ],
)
def test_every_word_of_a_search_is_found_in_any_script(store: ConversationStore, query: str, found: list[str]) -> None:
    said = {"a": "How do otters swim?", "b": "Where do otters go?", "c": "听说今天天气很好。", "d": 'They say "so", 100%.'}
    for name, text in said.items():
        store.append(name, [{"role": "user", "content": text}])
    assert sorted(each.conversation for each in store.search(query)) == found
    for each in store.search(query):
        assert query.split()[0].casefold() in each.excerpt.casefold()


def test_a_search_for_nothing_is_refused_and_what_was_removed_is_not_found(store: ConversationStore) -> None:
    store.append("a", turn("Where are the otters?", "In the river."))
    with pytest.raises(RequestError, match="empty"):
        store.search("  ")
    store.delete("a")
    assert store.search("otters") == ()
    assert b"otters" not in store.path.read_bytes(), "The text is still on the disk."


def test_clearing_spares_the_named_and_the_new(store: ConversationStore) -> None:
    store.append("kept", turn("Hello", "Hi"))
    store.add(None, turn("secret", "words"))
    assert store.clear(before=datetime.now(UTC) - timedelta(days=1)) == 0
    assert store.clear() == 1
    assert b"secret" not in store.path.read_bytes()
    assert store.names() == ("kept",)
    assert store.clear(named=True) == 1
    assert store.summaries() == ()


def test_keeping_can_be_switched_off_and_on(store: ConversationStore) -> None:
    assert store.keeps_all
    store.keep_all(False)
    assert not store.keeps_all
    store.keep_all(True)
    assert store.keeps_all


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_only_the_user_can_read_the_file(store: ConversationStore) -> None:
    umask = os.umask(0o022)
    try:
        store.append("talk", turn("Hello", "Hi"))
    finally:
        os.umask(umask)
    assert {file.stat().st_mode & 0o777 for file in store.path.parent.iterdir()} == {0o600}


@pytest.mark.parametrize("name", ["../up", "/etc/passwd", "a/b", ".hidden", "", "x" * 101, "水" * 90, "a\n", "con\0", "a.", "a "])
def test_a_bad_name_is_refused(store: ConversationStore, name: str) -> None:
    for act in (store.load, store.find, store.delete, lambda n: store.append(n, [])):
        with pytest.raises(RequestError, match="cannot name a conversation"):
            act(name)
    assert not store.path.exists()


def test_files_of_earlier_versions_are_taken_over_once(store: ConversationStore) -> None:
    """They are gone when all of them are in the store; what is no conversation stays, and is told once."""
    folder = store.path.parent
    folder.mkdir()
    messages = [{"role": "system", "content": "Be kind."}, *turn("Hello", "Hi")]
    (folder / "old.json").write_text(json.dumps({"created": "2025-01-01", "updated": "2025-01-02", "messages": messages}))
    (folder / "bad.json").write_text("[" * 200_000)
    with pytest.warns(UserWarning, match=r"bad\.json is no whole conversation"):
        assert store.names() == ("old",)
    kept = store.load("old")
    assert (kept.system, kept.created, list(kept.messages)) == ("Be kind.", "2025-01-01", messages[1:])
    assert sorted(file.name for file in folder.iterdir()) == ["bad.json", "conversations.db"]
    assert [each.conversation for each in store.search("Hello")] == ["old"]


def test_a_file_that_is_no_store_is_named(store: ConversationStore) -> None:
    store.path.parent.mkdir()
    store.path.write_bytes(b"not a database " * 100)
    for act in (store.names, lambda: store.add(None, turn("a", "b")), store.last, store.clear):
        with pytest.raises(LLMasOSError, match=r"conversations\.db cannot be read or written .* move a damaged file away"):
            act()
    assert store.path.read_bytes() == b"not a database " * 100


WRITER = """
import sys
from pathlib import Path
from llmasos_conversations.store import ConversationStore
for n in range(20):
    ConversationStore(Path(sys.argv[1])).append("talk", [{"role": "user", "content": f"{sys.argv[2]}.{n}"}])
"""


def test_turns_added_at_the_same_time_are_all_kept(store: ConversationStore, forked_children: Any) -> None:
    """By another process and by threads of this one, which also make the file together."""
    other = forked_children.python(WRITER, store.path.parent, "0")

    def add(n: int) -> None:
        for each in range(20):
            ConversationStore(store.path.parent).append("talk", [{"role": "user", "content": f"{n}.{each}"}])

    threads = [threading.Thread(target=add, args=(n,)) for n in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    other.communicate(timeout=60)
    assert other.returncode == 0
    said = [message["content"] for message in store.load("talk").messages]
    assert sorted(said) == sorted(f"{n}.{each}" for n in range(3) for each in range(20))
    assert [each for each in said if each.startswith("1.")] == [f"1.{each}" for each in range(20)]


def test_the_users_folder_is_below_the_home_that_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMASOS_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "data" / "conversations"
    assert ConversationStore.chosen("", "lessons").path.parent == tmp_path / "data" / "lessons"
    assert ConversationStore.chosen(str(tmp_path)).path.parent == tmp_path


def pictured(text: str, *images: bytes) -> dict[str, Any]:
    """A message of the user with images."""
    return {"role": "user", "content": [*({"type": "image", "image": each} for each in images), {"type": "text", "text": text}]}


def blobs(store: ConversationStore) -> list[bytes]:
    with contextlib.closing(sqlite3.connect(store.path)) as connection:
        return [data for (data,) in connection.execute("SELECT data FROM images ORDER BY data")]


def test_images_are_kept_once_and_removed_with_their_last_message(store: ConversationStore) -> None:
    """A kept message names them by digest, and is asked again with their files; its text alone is searched."""
    one, other = b"first image" * 100, b"second image" * 100
    number, messages = store.add(None, [pictured("What is it?", one, other), {"role": "assistant", "content": "An otter."}])
    second, _ = store.add(None, [pictured("And this?", one)], name="again")
    kept = store.find(str(number)).messages
    digests = [hashlib.sha256(each).hexdigest() for each in (one, other)]
    assert kept[0] == {"role": "user", "content": "What is it?", "images": digests}
    assert store.asked(kept) == [pictured("What is it?", one, other), {"role": "assistant", "content": "An otter."}]
    assert blobs(store) == [one, other]
    assert [found.excerpt for found in store.search("is it")] == ["What is it?"]
    store.take_back(messages[:1])
    assert blobs(store) == [one]
    with pytest.raises(RequestError, match=f"image {digests[1][:12]} of this conversation is no longer kept"):
        store.asked(kept)
    assert store.asked(store.find("again").messages) == [pictured("And this?", one)]
    store.delete("again")
    assert blobs(store) == []
    assert second != number
    assert one[:20] not in store.path.read_bytes()


@pytest.mark.parametrize("part", [{"type": "image", "image": "a.png"}, {"type": "sound"}, 7])
def test_what_is_neither_text_nor_bytes_is_not_kept(store: ConversationStore, part: Any) -> None:
    """And nothing of its turn is."""
    with pytest.raises(RequestError, match="cannot be kept"):
        store.add(None, [*turn("a", "b"), {"role": "user", "content": [part]}])
    assert store.summaries() == ()


def test_conversations_of_the_version_without_images_stay(store: ConversationStore) -> None:
    """Their file gets the tables of images when it is first opened."""
    store.append("otters", turn("Hello", "Yes."))
    with contextlib.closing(sqlite3.connect(store.path)) as connection:
        for name in ("TRIGGER image_unused", "TABLE images_of", "TABLE images"):
            connection.execute(f"DROP {name}")
        connection.execute("PRAGMA user_version = 1")
        connection.commit()
    assert store.load("otters").messages == tuple(turn("Hello", "Yes."))
    store.append("otters", [pictured("This?", b"image")])
    assert store.asked(store.load("otters").messages)[-1] == pictured("This?", b"image")
