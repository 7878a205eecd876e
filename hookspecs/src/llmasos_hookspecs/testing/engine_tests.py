"""Conformance tests of the engines that a loader makes: the forward pass, batches, slots, capacity and leaks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import attrs
import numpy as np
import pytest

from llmasos_hookspecs.context import EngineLimits
from llmasos_hookspecs.engine import Engine, Row
from llmasos_hookspecs.errors import CapacityExceeded
from llmasos_hookspecs.testing.drawing import acceptable_tokens, drawn_token, example_draws
from llmasos_hookspecs.testing.engine_under_test import EngineUnderTest
from llmasos_hookspecs.testing.growth import growth
from llmasos_hookspecs.testing.loader_cases import LIMITS, LoaderCases
from llmasos_hookspecs.testing.plugin import found_once
from llmasos_hookspecs.testing.sandbox import PluginSandbox

F = TypeVar("F", bound=Callable[..., Any])

_EVERY_PATH = "__every_path__"


def every_path(test: F) -> F:
    """Mark a test that runs for ``path_cases`` only, because its result does not depend on the architecture's switches."""
    setattr(test, _EVERY_PATH, True)
    return test


class EngineTests(LoaderCases, standard=True):
    """Tests of one engine for each case."""

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run engine tests once a case."""
        if "case" in metafunc.fixturenames:
            # Path cases come first, so that a case has the same index for every test and pytest loads its engine once.
            cases = sorted(found_once(type(self), self.covered_cases), key=lambda case: case not in self.path_cases)
            if getattr(metafunc.function, _EVERY_PATH, False):
                cases = [case for case in cases if case in self.path_cases] or cases[:1]
            metafunc.parametrize("case", cases, scope="class")

    @pytest.fixture(scope="class")
    @classmethod
    def loaded(cls, sandbox: PluginSandbox, case: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineUnderTest]:
        """One engine a case, shared by the tests."""
        root = tmp_path_factory.mktemp("loader")
        checkpoint = cls.make_checkpoint(case, root / "model")
        engine = cls.load(sandbox, checkpoint, root)
        yield EngineUnderTest(engine, checkpoint, cls.tolerance, cls.consistency)
        engine.shutdown()

    @pytest.fixture
    def engine(self, loaded: EngineUnderTest) -> Iterator[EngineUnderTest]:
        """The engine with every slot closed again afterwards."""
        yield loaded
        loaded.close_all()

    # The forward pass, for every case.

    def test_info_is_true(self, engine: EngineUnderTest, case: str) -> None:
        """``EngineInfo`` agrees with the checkpoint and the limits."""
        info, decoder = engine.engine.info, engine.checkpoint.decoder
        assert isinstance(engine.engine, Engine), "The engine lacks a method of the Engine protocol."
        assert info.vocab_size == decoder.vocab_size
        assert LIMITS.context_length is not None
        assert LIMITS.context_length <= info.context_length <= decoder.context_length
        assert info.max_sequences >= 1
        assert info.weight_bytes > 0
        assert (info.kv_bytes_per_token > 0) == ("kv_cache" in info.features)
        assert info.features <= {"fork", "batch", "kv_cache", "drafts", "sampling", "embeddings"}
        assert info.hidden_size == (decoder.hidden_size if "embeddings" in info.features else 0)
        assert all(isinstance(note, str) and note for note in info.notes)

    def test_prefill(self, engine: EngineUnderTest, case: str) -> None:
        """A prompt computed in one step gives the reference's logits at every token."""
        tokens = engine.prompt(41, seed=1)
        got = engine.prefill(engine.open(), tokens)
        engine.agree(got, engine.reference.logits(tokens), "prefill against the reference", engine.tolerance)

    def test_decode(self, engine: EngineUnderTest, case: str) -> None:
        """Tokens decoded one at a time after a prompt get the same logits as in one step."""
        tokens = engine.prompt(30, seed=2)
        engine.learn(tokens)
        slot = engine.open()
        got = [engine.prefill(slot, tokens[:17])]
        got += [engine.step(Row(slot, [tokens[i]], i))[0] for i in range(17, 30)]
        engine.agree(np.concatenate(got), engine.expected(tokens), "decode")

    # Batches, slots and capacity, for the path cases.

    @every_path
    def test_drafts(self, engine: EngineUnderTest, case: str) -> None:
        """With the feature ``drafts``, generated tokens get bitwise identical logits one at a time and several in one row."""
        if "drafts" not in engine.engine.info.features:
            pytest.skip("The engine promises nothing of drafts.")
        tokens = engine.prompt(30, seed=8)
        alone, together = engine.open(), engine.open()
        engine.step(Row(alone, tokens[:9], 0, "none"))
        engine.step(Row(together, tokens[:9], 0, "none"))
        expected = np.concatenate([engine.step(Row(alone, [token], 9 + i))[0].copy() for i, token in enumerate(tokens[9:])])
        at = 9
        for size in (2, 3, 9, 7):
            got = engine.step(Row(together, tokens[at : at + size], at, "all", generated=True))[0]
            assert np.array_equal(got, expected[at - 9 : at - 9 + size]), f"A row of {size} generated tokens rounds differently."
            at += size

    @every_path
    def test_sampling(self, engine: EngineUnderTest, case: str) -> None:
        """With the feature ``sampling``, the engine samples by its own logits and by each row's ``Draw`` alone, also in a step with rows
        that want logits."""
        if "sampling" not in engine.engine.info.features:
            pytest.skip("The engine leaves it to core to draw tokens.")
        prompts = [engine.prompt(9 + i, seed=20 + i) for i in range(min(3, engine.engine.info.max_sequences))]
        slots = [engine.open() for _ in prompts]
        engine.step(*(Row(slot, prompt[:-1], 0, "none") for slot, prompt in zip(slots, prompts, strict=True)))
        rows = [Row(slot, prompt[-1:], len(prompt) - 1) for slot, prompt in zip(slots, prompts, strict=True)]
        logits = [found[0] for found in engine.step(*rows)]
        draws = list(example_draws(engine.engine.info.vocab_size))
        for turn, first in enumerate(draws):
            for row in rows:
                engine.engine.truncate(row.slot, row.position)
            # Every row gets another draw; in every third step the last row wants logits instead.
            leave = turn % 3 == 2 and len(rows) > 1
            following = iter([*draws[turn + 1 :], *draws])
            chosen = [first, *(None if leave and row is rows[-1] else next(following) for row in rows[1:])]
            results = engine.engine.step([attrs.evolve(row, draw=draw) for row, draw in zip(rows, chosen, strict=True)])
            for found, own, draw in zip(results, logits, chosen, strict=True):
                if draw is None:
                    engine.agree(np.array(found), own[None], "the logits of a row beside rows that draw")
                    continue
                assert found.dtype == np.int64, f"A row with a draw gave {found.dtype}; it must give one int64."
                assert found.shape == (1,), f"A row with a draw gave the shape {found.shape}; it must give (1,)."
                assert int(found[0]) in acceptable_tokens(own, draw), f"{draw} gave token {int(found[0])}, not {drawn_token(own, draw)}."

    @every_path
    def test_chunked_prefill(self, engine: EngineUnderTest, case: str) -> None:
        """A prompt in chunks of any length gives the same logits as in one step."""
        tokens = engine.prompt(60, seed=3)
        engine.learn(tokens)
        slot, got, at = engine.open(), [], 0
        for size in (1, 7, 16, 3, 33):
            got += engine.step(Row(slot, tokens[at : at + size], at, "all"))
            at += size
        engine.agree(np.concatenate(got), engine.expected(tokens), "chunked prefill")

    @every_path
    def test_want(self, engine: EngineUnderTest, case: str) -> None:
        """``last`` gives the last row of ``all``; ``none`` gives no row, and the slot still holds the tokens."""
        tokens = engine.prompt(20, seed=4)
        engine.learn(tokens)
        slot = engine.open()
        engine.step(Row(slot, tokens[:12], 0, "none"))
        got = engine.step(Row(slot, tokens[12:19], 12, "last"))[0]
        engine.agree(got, engine.expected(tokens)[18:19], "want='last'")
        got = engine.step(Row(slot, tokens[19:], 19, "all"))[0]
        engine.agree(got, engine.expected(tokens)[19:], "want='all'")

    @every_path
    def test_hidden_states(self, engine: EngineUnderTest, case: str) -> None:
        """With the feature ``embeddings``, ``hidden`` gives the states from which the head makes logits: in one step, in chunks, and
        beside a row that wants logits, in either order; the slot then holds the tokens."""
        if "embeddings" not in engine.engine.info.features:
            pytest.skip("The engine gives logits only.")
        tokens, other = engine.prompt(20, seed=6), engine.prompt(9, seed=7)
        engine.learn(tokens, other)
        slot = engine.open()
        whole = engine.step(Row(slot, tokens, 0, "hidden"))[0]
        engine.close(slot)
        if engine.tolerance <= 0.02:
            wanted = engine.reference.hidden(tokens).astype(np.float32)
            engine.agree(whole, wanted, "hidden states", max(engine.tolerance, engine.consistency))
        slot = engine.open()
        if engine.engine.info.max_sequences == 1:
            engine.agree(engine.step(Row(slot, tokens[:7], 0, "hidden"))[0], whole[:7], "hidden states in chunks")
            engine.agree(engine.step(Row(slot, tokens[7:], 7, "all"))[0], engine.expected(tokens)[7:], "logits after hidden states")
            return
        second = engine.open()
        first, logits = engine.step(Row(slot, tokens[:7], 0, "hidden"), Row(second, other[:8], 0, "all"))
        engine.agree(first, whole[:7], "hidden states beside a row of logits")
        engine.agree(logits, engine.expected(other)[:8], "logits beside a row of hidden states")
        logits, one = engine.step(Row(second, other[8:], 8), Row(slot, tokens[7:8], 7, "hidden"))
        engine.agree(one, whole[7:8], "the hidden state of one token")
        engine.agree(logits, engine.expected(other)[8:], "logits of one token beside a row of hidden states")
        engine.agree(engine.step(Row(slot, tokens[8:], 8, "all"))[0], engine.expected(tokens)[8:], "logits after hidden states")

    @every_path
    def test_unequal_batch(self, engine: EngineUnderTest, case: str) -> None:
        """One step takes prefill chunks and decode rows of sequences of different lengths; no row depends on the batch composition."""
        lengths = (5, 29, 14)[: engine.engine.info.max_sequences]
        prompts = [engine.prompt(n + 10, seed=50 + n) for n in lengths]
        engine.learn(*prompts)
        slots = [engine.open() for _ in lengths]
        first = engine.step(*(Row(s, p[:n], 0, "all") for s, p, n in zip(slots, prompts, lengths, strict=True)))
        for got, prompt, n in zip(first, prompts, lengths, strict=True):
            engine.agree(got, engine.expected(prompt)[:n], f"batched prefill of {lengths} tokens, the row of {n}")
        for i in range(4):
            order = list(range(len(slots)))[:: 1 if i % 2 else -1]  # the order of rows is core's choice
            got_rows = engine.step(*(Row(slots[k], [prompts[k][lengths[k] + i]], lengths[k] + i) for k in order))
            for k, got in zip(order, got_rows, strict=True):
                at = lengths[k] + i
                engine.agree(got, engine.expected(prompts[k])[at : at + 1], f"batched decode, the row at position {at}")
        mixed = [Row(slots[k], prompts[k][n + 4 : n + (5 if k else 10)], n + 4, "all") for k, n in enumerate(lengths)]
        for k, got in enumerate(engine.step(*mixed)):
            at = lengths[k] + 4
            engine.agree(got, engine.expected(prompts[k])[at : at + len(got)], "a step that mixes a prefill chunk with decode rows")

    @every_path
    def test_rows_join_and_leave(self, engine: EngineUnderTest, case: str) -> None:
        """Closing a slot between two others and opening a new one does not change the results of the others."""
        if engine.engine.info.max_sequences < 3:
            pytest.skip("The engine holds fewer than three sequences.")
        prompts = [engine.prompt(24, seed=60 + i) for i in range(4)]
        engine.learn(*prompts)
        slots = [engine.open() for _ in range(3)]
        lengths = [9, 12, 15]
        engine.step(*(Row(slots[i], prompts[i][: lengths[i]], 0) for i in range(3)))
        engine.close(slots[0])
        for _ in range(3):
            rows = [Row(slots[i], [prompts[i][lengths[i]]], lengths[i]) for i in (1, 2)]
            for i, got in zip((1, 2), engine.step(*rows), strict=True):
                engine.agree(got, engine.expected(prompts[i])[lengths[i] : lengths[i] + 1], "decode after a neighbour was closed")
                lengths[i] += 1
        fresh = engine.open()
        engine.agree(engine.prefill(fresh, prompts[3][:20]), engine.expected(prompts[3])[:20], "prefill in a slot that was used before")
        rows = [Row(slots[2], [prompts[2][lengths[2]]], lengths[2]), Row(fresh, [prompts[3][20]], 20)]
        late, new = engine.step(*rows)
        engine.agree(late, engine.expected(prompts[2])[lengths[2] : lengths[2] + 1], "decode after a neighbour joined")
        engine.agree(new, engine.expected(prompts[3])[20:21], "decode of the sequence that joined")

    @every_path
    def test_truncate(self, engine: EngineUnderTest, case: str) -> None:
        """After ``truncate`` a slot gives the same results as one that never held the removed tokens."""
        old, new = engine.prompt(40, seed=5), engine.prompt(40, seed=6)
        engine.learn(*(old[:length] + new[: 37 - length] for length in (25, 13, 0)))
        slot = engine.open()
        engine.prefill(slot, old)
        for length in (25, 13, 0):
            engine.engine.truncate(slot, length)
            tokens = old[:length] + new[: 37 - length]
            got = engine.step(Row(slot, tokens[length:], length, "all"))[0]
            engine.agree(got, engine.expected(tokens)[length:], f"prefill after truncate to {length}")
            engine.engine.truncate(slot, 37 - 1)
            got = engine.step(Row(slot, tokens[-1:], 36))[0]
            engine.agree(got, engine.expected(tokens)[-1:], "decode after truncate by one")
            engine.engine.truncate(slot, 0)
            engine.prefill(slot, old)

    @every_path
    def test_fork(self, engine: EngineUnderTest, case: str) -> None:
        """A fork holds the same tokens, and is independent of its origin from then on."""
        if "fork" not in engine.engine.info.features:
            pytest.skip("The engine says that it cannot fork.")
        if engine.engine.info.max_sequences < 2:
            pytest.skip("The engine holds one sequence.")
        tokens, other = engine.prompt(30, seed=7), engine.prompt(30, seed=8)
        branch = tokens[:18] + other[18:]
        engine.learn(tokens, branch)
        slot = engine.open()
        engine.prefill(slot, tokens[:18])
        copy = engine.fork(slot)
        engine.agree(engine.step(Row(copy, branch[18:24], 18, "all"))[0], engine.expected(branch)[18:24], "the fork")
        engine.agree(engine.step(Row(slot, tokens[18:24], 18, "all"))[0], engine.expected(tokens)[18:24], "the slot that was forked")
        both = engine.step(Row(slot, [tokens[24]], 24), Row(copy, [branch[24]], 24))
        engine.agree(both[0], engine.expected(tokens)[24:25], "the slot that was forked, beside its fork")
        engine.agree(both[1], engine.expected(branch)[24:25], "the fork, beside its origin")
        engine.close(slot)
        engine.agree(engine.step(Row(copy, [branch[25]], 25))[0], engine.expected(branch)[25:26], "the fork after its origin was closed")

    @every_path
    def test_the_context_is_a_limit(self, engine: EngineUnderTest, case: str) -> None:
        """A slot takes ``context_length`` tokens; one more is ``CapacityExceeded``, and no slot has changed."""
        limit = engine.engine.info.context_length
        tokens, neighbour = engine.prompt(limit + 1, seed=9), engine.prompt(12, seed=10)
        engine.learn(tokens[:limit], neighbour)
        full, beside = engine.open(), engine.open() if engine.engine.info.max_sequences > 1 else None
        engine.step(Row(full, tokens[: limit - 1], 0, "none"))
        rows = [Row(full, tokens[limit - 1 :], limit - 1)]
        if beside is not None:
            engine.step(Row(beside, neighbour[:8], 0, "none"))
            rows.insert(0, Row(beside, neighbour[8:10], 8))
        with pytest.raises(CapacityExceeded):
            engine.engine.step(rows)
        engine.engine.truncate(full, limit - 1)
        got = engine.step(Row(full, [tokens[limit - 1]], limit - 1))[0]
        engine.agree(got, engine.expected(tokens[:limit])[-1:], "the last token of the context, after a step that failed")
        if beside is not None:
            engine.engine.truncate(beside, 8)
            got = engine.step(Row(beside, neighbour[8:], 8, "all"))[0]
            engine.agree(got, engine.expected(neighbour)[8:], "the neighbour of a slot that was full")

    @every_path
    def test_slots_are_a_limit(self, engine: EngineUnderTest, case: str) -> None:
        """``open`` and ``fork`` past ``max_sequences`` are ``CapacityExceeded`` and change no slot; a closed slot can be opened again."""
        count = engine.engine.info.max_sequences
        tokens = engine.prompt(9, seed=11)
        engine.learn(tokens)
        slots = [engine.open() for _ in range(count)]
        assert len(set(slots)) == count, "open gave the same slot twice."
        engine.step(Row(slots[0], tokens[:6], 0))
        with pytest.raises(CapacityExceeded):
            engine.open()
        if "fork" in engine.engine.info.features:
            with pytest.raises(CapacityExceeded):
                engine.fork(slots[0])
        engine.agree(engine.step(Row(slots[0], tokens[6:], 6, "all"))[0], engine.expected(tokens)[6:], "a slot after open was refused")
        engine.close(slots[-1])
        engine.open()

    @every_path
    def test_wrong_rows_are_refused(self, engine: EngineUnderTest, case: str) -> None:
        """Unknown slots, wrong positions, repeated slots and tokens outside the vocabulary are ``ValueError`` and change nothing."""
        tokens = engine.prompt(12, seed=12)
        engine.learn(tokens)
        slot = engine.open()
        engine.prefill(slot, tokens[:8])
        wrong: dict[str, list[Row]] = {
            "a slot that was never opened": [Row(slot + 1000, [1], 0)],
            "a position ahead": [Row(slot, [1], 9)],
            "a position behind": [Row(slot, [1], 7)],
            "the same slot twice": [Row(slot, [1], 8), Row(slot, [1], 8)],
            "a token past the vocabulary": [Row(slot, [1, engine.engine.info.vocab_size], 8)],
            "a negative token": [Row(slot, [-1], 8)],
            "no token": [Row(slot, [], 8)],
        }
        for what, rows in wrong.items():
            with pytest.raises(ValueError):  # noqa: PT012
                engine.engine.step(rows)
                pytest.fail(f"step took {what}.")
            engine.engine.truncate(slot, 8)
        got = engine.step(Row(slot, tokens[8:], 8, "all"))[0]
        engine.agree(got, engine.expected(tokens)[8:], "a slot after wrong rows were refused")
        engine.close(slot)
        with pytest.raises(ValueError):  # noqa: PT012
            engine.engine.step([Row(slot, [1], 12)])
            pytest.fail("step took a closed slot.")

    @every_path
    def test_a_thousand_sequences_leave_nothing(self, engine: EngineUnderTest, case: str) -> None:
        """Opening and closing 1,000 slots, some of them used, leaks no memory and no slot."""
        tokens = engine.prompt(6, seed=13)
        engine.learn(tokens)

        def cycle(count: int) -> None:
            for i in range(count):
                slot = engine.open()
                if i % 20 == 0:
                    engine.step(Row(slot, tokens[: 1 + i % 5], 0))
                engine.close(slot)

        cycle(200)
        grown = growth(lambda: cycle(1000), 16 * 2**20)
        # A leaked slot of this model holds kv_bytes_per_token * context_length bytes, 24 KiB and more: a thousand are over 24 MB.
        assert grown < 16 * 2**20, f"1,000 sequences left {grown / 2**20:.1f} MiB behind."
        slots = [engine.open() for _ in range(engine.engine.info.max_sequences)]
        engine.agree(engine.prefill(slots[-1], tokens), engine.expected(tokens), "a slot after a thousand others")

    def test_many_steps_leave_nothing(self, sandbox: PluginSandbox, tmp_path: Path) -> None:
        """200 steps of one slot, always at the same position, leak no memory."""
        engine = self.load(sandbox, self.make_checkpoint(self.covered_cases()[0], tmp_path / "model"), tmp_path)
        slot = engine.open()
        engine.step([Row(slot, [1, 2, 3, 4], 0)])

        def repeat(count: int) -> None:
            for token in range(count):
                engine.step([Row(slot, [token % 200], 4)])
                engine.truncate(slot, 4)

        repeat(50)
        grown = growth(lambda: repeat(200), 2 * 2**20)
        engine.shutdown()
        assert grown < 2 * 2**20, f"200 steps left {grown / 2**20:.1f} MiB behind."

    def test_the_whole_context(self, sandbox: PluginSandbox, tmp_path: Path) -> None:
        """Without limits a slot holds the model's own context, and its last tokens get correct logits."""
        checkpoint = self.make_checkpoint(self.covered_cases()[0], tmp_path / "model")
        made = self.load(sandbox, checkpoint, tmp_path, EngineLimits(threads=2, max_sequences=2))
        engine = EngineUnderTest(made, checkpoint, self.tolerance, self.consistency)
        length = min(made.info.context_length, checkpoint.decoder.context_length)
        tokens, slot = engine.prompt(length, seed=14), engine.open()
        got = [engine.step(Row(slot, tokens[at : at + 50], at, "all"))[0] for at in range(0, length - 1, 50)]
        engine.agree(
            np.concatenate(got)[: length - 1],
            engine.reference.logits(tokens)[: length - 1],
            f"a prompt of {length} tokens against the reference",
            # Rounding adds up over the layers of every token that is attended to.
            1.5 * engine.tolerance,
        )
        made.shutdown()
