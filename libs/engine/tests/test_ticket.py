"""A ticket by itself: what its readers get, who is told of its end, and when it cancels its request."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from llmasos_engine.ticket import Piece, ResultTimeout, Ticket
from llmasos_hookspecs import EngineFailed, LLMasOSError, PromptProgress, TokenLogprob

SECONDS = 60.0


class Cancels:
    """Counts how often the request was cancelled."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


def made() -> tuple[Ticket[str], Cancels]:
    cancels = Cancels()
    return Ticket("x", cancels, 9.0), cancels


def logprob(token: int) -> TokenLogprob:
    return TokenLogprob(token=token, text="t", logprob=-1.0, top=())


def test_what_a_ticket_shows() -> None:
    ticket, _ = made()
    assert (repr(ticket), ticket.done, ticket.followed, ticket.deadline, ticket.id) == ("<Ticket x: running>", False, False, 9.0, "x")
    ticket.finish("yes")
    assert (repr(ticket), ticket.done) == ("<Ticket x: done>", True)
    failed, _ = made()
    failed.fail(EngineFailed("It is lost."))
    assert (repr(failed), failed.done) == ("<Ticket x: failed>", True)
    assert Ticket[str]("y", lambda: None).deadline is None
    assert ticket.progress is None


def test_pieces_have_their_tokens_and_the_answer_is_the_end() -> None:
    """Every reader gets all of them from the first, and the generator over the texts returns the answer; nothing is cancelled."""
    ticket, cancels = made()
    ticket.emit("a", (1, 2), (logprob(1), logprob(2)))
    ticket.emit("")
    ticket.emit("b")
    ticket.finish("ab")
    pieces = [Piece("a", (1, 2), (logprob(1), logprob(2))), Piece("b")]
    assert list(ticket.pieces()) == pieces
    texts = iter(ticket)
    assert [next(texts), next(texts)] == ["a", "b"]
    with pytest.raises(StopIteration) as over:
        next(texts)
    assert over.value.value == "ab"
    assert ticket.result() == "ab"
    assert cancels.count == 0
    assert ticket.followed


@pytest.mark.parametrize("read", ["texts", "pieces", "async texts", "async pieces"])
def test_an_error_comes_after_the_pieces(read: str) -> None:
    """However they are read."""
    ticket, _ = made()
    ticket.emit("a")
    ticket.fail(EngineFailed("It is lost."))
    found: list[Any] = []

    async def follow() -> None:
        async for each in ticket if read == "async texts" else ticket.apieces():
            found.append(each)  # noqa: PERF401 - what comes before the error is kept

    def go() -> None:
        if read.startswith("async"):
            asyncio.run(follow())
        else:
            for each in ticket if read == "texts" else ticket.pieces():
                found.append(each)  # noqa: PERF402 - what comes before the error is kept

    with pytest.raises(EngineFailed, match=r"^It is lost\.$"):
        go()
    assert found == ["a" if read.endswith("texts") else Piece("a")]


def test_pieces_come_as_they_are_emitted() -> None:
    """To a reader that waits, one after the other, and the error after them."""
    ticket, _ = made()
    got: list[str] = []
    told = threading.Semaphore(0)

    def read() -> None:
        try:
            for piece in ticket.pieces():
                got.append(piece.text)
                told.release()
        except EngineFailed as error:
            got.append(str(error))

    reader = threading.Thread(target=read)
    reader.start()
    for text in ("a", "b"):
        ticket.emit(text)
        assert told.acquire(timeout=SECONDS)
        assert got[-1] == text
    ticket.fail(EngineFailed("It is lost."))
    reader.join(SECONDS)
    assert got == ["a", "b", "It is lost."]


def test_nobody_is_woken_for_a_reader_that_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each wake-up takes time from the loop's thread; one is told of the end, however it reads."""
    ticket, _ = made()
    told: list[int] = []
    monkeypatch.setattr(ticket._changes, "tell", lambda: told.append(1))
    ticket.emit("a")
    reader = ticket.pieces()
    assert next(reader).text == "a"
    ticket.emit("b")
    assert next(reader).text == "b"
    ticket.emit("c")
    assert told == []
    ticket.finish("abc")
    assert told == [1]


def test_a_reader_sleeps_until_there_is_a_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not look again and again: once for the piece, and once for the end."""
    ticket, _ = made()
    looks: list[bool] = []
    wait, waiting = ticket._changes.wait_for, threading.Event()

    def counted(*arguments: Any) -> bool:
        looks.append(True)
        waiting.set()
        return wait(*arguments)

    monkeypatch.setattr(ticket._changes, "wait_for", counted)
    found: list[str] = []
    reader = threading.Thread(target=lambda: found.extend(ticket))
    reader.start()
    assert waiting.wait(SECONDS)
    ticket.emit("a")
    for _ in range(6000):
        if len(looks) > 1:
            break
        threading.Event().wait(0.01)
    ticket.finish("a")
    reader.join(SECONDS)
    assert (found, len(looks)) == (["a"], 2)


@pytest.mark.parametrize("read", ["texts", "pieces"])
@pytest.mark.parametrize("after", [0, 1])
def test_a_reader_that_leaves_cancels(read: str, after: int) -> None:
    """Also before its first piece; and one that leaves after the end does not."""
    for ended in (False, True):
        ticket, cancels = made()
        reader: Any = iter(ticket) if read == "texts" else ticket.pieces()
        ticket.emit("a")
        ticket.emit("b")
        for _ in range(after):
            next(reader)
        if ended:
            ticket.finish("ab")
        reader.close()
        assert cancels.count == (0 if ended else 1)


def test_the_first_end_counts() -> None:
    for first, second in (("finish", "fail"), ("fail", "finish")):
        ticket, cancels = made()
        for how in (first, second):
            ticket.finish("yes") if how == "finish" else ticket.fail(EngineFailed("no"))
        if first == "finish":
            assert ticket.result() == "yes"
        else:
            with pytest.raises(EngineFailed, match=r"^no$"):
                ticket.result()
        ticket.cancel()
        assert cancels.count == 0, "It has ended."


def test_waiting_for_a_result_has_an_end() -> None:
    """The sentence says how long it was waited for; the request goes on."""
    ticket, cancels = made()
    with pytest.raises(ResultTimeout) as caught:
        ticket.result(0.05)
    assert str(caught.value) == "Request x is not finished after 0.05 seconds; wait longer, or cancel it."
    assert isinstance(caught.value, TimeoutError)
    assert cancels.count == 0
    ticket.cancel()
    assert cancels.count == 1


def test_the_same_error_reaches_everyone_without_a_growing_traceback() -> None:
    ticket, _ = made()
    ticket.fail(EngineFailed("It is lost."))

    def frames() -> int:
        with pytest.raises(LLMasOSError) as caught:
            ticket.result()
        count, trace = 0, caught.value.__traceback__
        while trace is not None:
            count, trace = count + 1, trace.tb_next
        return count

    assert frames() == frames() == frames()


def test_a_listener_hears_what_came_before_it_and_what_comes() -> None:
    ticket, _ = made()
    ticket.emit("a", (1,))
    heard: list[Piece] = []
    ticket.listen(heard.append)
    assert ticket.followed
    ticket.emit("b", (2,))
    assert heard == [Piece("a", (1,)), Piece("b", (2,))]


def test_progress_of_the_prompt_is_heard_and_kept() -> None:
    ticket, _ = made()
    first, second = (PromptProgress(total=4, cached=0, processed=done, seconds=0.0) for done in (2, 4))
    ticket.prefilled(first)
    assert ticket.progress == first
    heard: list[PromptProgress] = []
    ticket.listen_to_prefill(heard.append)
    ticket.prefilled(second)
    assert heard == [first, second]
    assert ticket.progress == second
    fresh, _ = made()
    fresh.listen_to_prefill(heard.append)
    assert len(heard) == 2


def test_an_end_is_told_though_a_release_fails() -> None:
    """What held memory for a request may fail to give it back; its caller is not kept waiting."""
    ticket, _ = made()
    told: list[str] = []

    def fail() -> None:
        raise RuntimeError("planted")

    ticket.add_release(fail)
    ticket.add_done_callback(lambda: told.append("done"))
    with pytest.raises(RuntimeError, match="planted"):
        ticket.finish("yes")
    assert (ticket.result(), told) == ("yes", ["done"])
    ticket.add_done_callback(lambda: told.append("at once"))
    ticket.add_release(lambda: told.append("released at once"))
    assert told == ["done", "at once", "released at once"]


def test_a_forked_child_hears_of_the_parents_answers_only_where_they_were_there() -> None:
    ended, _ = made()
    ended.finish("yes")
    running, _ = made()
    for ticket in (ended, running):
        ticket.after_fork(EngineFailed("It was forked."))
    assert ended.result(0.0) == "yes"
    with pytest.raises(EngineFailed, match=r"^It was forked\.$"):
        running.result(0.0)
    running.finish("too late")
    with pytest.raises(EngineFailed):
        running.result(0.0)


def test_an_event_loop_reads_pieces_and_results() -> None:
    """Those that were there, and those that another thread emits while it waits; then the answer, or the error."""

    async def main() -> None:
        ticket, cancels = made()
        ticket.emit("a", (1,))

        def answer() -> None:
            for text in "bcd":
                ticket.emit(text)
            ticket.finish("abcd")

        pieces = ticket.apieces()
        assert await anext(pieces) == Piece("a", (1,))
        threading.Timer(0.05, answer).start()
        assert [piece.text async for piece in pieces] == ["b", "c", "d"]
        assert await ticket.aresult() == "abcd"
        assert [text async for text in ticket] == ["a", "b", "c", "d"]
        assert cancels.count == 0
        failed, _ = made()
        failed.emit("a")
        threading.Timer(0.05, failed.fail, [EngineFailed("It is lost.")]).start()
        texts = aiter(failed)
        assert await anext(texts) == "a"
        with pytest.raises(EngineFailed, match="It is lost"):
            await anext(texts)
        with pytest.raises(EngineFailed, match="It is lost"):
            await failed.aresult()

    asyncio.run(asyncio.wait_for(main(), SECONDS))


def test_a_task_that_leaves_cancels() -> None:
    """A reader that closes its stream, and a task that is cancelled while it waits for a piece or for the answer."""

    async def wait(what: AsyncIterator[Any] | Any) -> None:
        if hasattr(what, "__anext__"):
            await anext(what)
        else:
            await what

    async def main() -> None:
        ticket, cancels = made()
        ticket.emit("a")
        pieces = ticket.apieces()
        await anext(pieces)
        await pieces.aclose()
        assert cancels.count == 1
        for waits in (ticket.aresult, made()[0].aresult):
            task = asyncio.ensure_future(wait(waits()))
            await asyncio.sleep(0.01)
            assert not task.done()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert cancels.count == 2
        other, cancelled = made()
        task = asyncio.ensure_future(wait(other.apieces()))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert cancelled.count == 1
        other.emit("late")  # wakes nobody, and fails nothing
        other.finish("late")

    asyncio.run(asyncio.wait_for(main(), SECONDS))
