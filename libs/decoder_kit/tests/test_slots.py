"""Open slots, and the rows of a step that they refuse."""

from __future__ import annotations

import pytest

from llmasos_decoder_kit.slots import SlotTable
from llmasos_hookspecs import CapacityExceeded, EngineInfo, Row

INFO = EngineInfo(vocab_size=10, context_length=8, max_sequences=2, weight_bytes=0, kv_bytes_per_token=0)


def test_numbers_are_never_used_twice_and_the_limit_holds() -> None:
    table: SlotTable[int] = SlotTable(INFO)
    first, second = table.open(), table.open()
    with pytest.raises(CapacityExceeded, match="All 2 slots"):
        table.open()
    table.close(first)
    assert table.open() not in (first, second)
    with pytest.raises(ValueError, match=f"Slot {first} is not open"):
        table[first]


def test_a_fork_holds_the_same_in_lists_of_its_own() -> None:
    table: SlotTable[str] = SlotTable(INFO)
    slot = table.open()
    table[slot].held, table[slot].length, table[slot].tokens, table[slot].long = ["a"], 2, [3, 4], True
    fork = table.fork(slot)
    table[fork].held.append("b")
    table.truncate(fork, 1)
    assert (table[slot].held, table[slot].length, table[slot].tokens) == (["a"], 2, [3, 4])
    assert (table[fork].held, table[fork].length, table[fork].tokens, table[fork].long) == (["a", "b"], 1, [3], True)


@pytest.mark.parametrize("length", [-1, 3])
def test_a_slot_is_cut_within_its_tokens_only(length: int) -> None:
    table: SlotTable[str] = SlotTable(INFO)
    slot = table.open()
    table[slot].length = 2
    with pytest.raises(ValueError, match=f"holds 2 tokens and cannot be cut to {length}"):
        table.truncate(slot, length)
    assert table[slot].length == 2


@pytest.mark.parametrize(
    ("row", "error", "said"),
    [
        (Row(1, [1], 1, "last"), ValueError, "holds 0 tokens, and the row starts at position 1"),
        (Row(1, [], 0, "last"), ValueError, "has no token"),
        (Row(1, [10], 0, "last"), ValueError, "outside 0 .. 9"),
        (Row(1, [-1], 0, "last"), ValueError, "outside 0 .. 9"),
        (Row(5, [1], 0, "last"), ValueError, "Slot 5 is not open"),
        (Row(1, [1] * 9, 0, "last"), CapacityExceeded, "context of 8 tokens"),
    ],
)
def test_a_row_that_does_not_fit_its_slot_is_refused(row: Row, error: type[Exception], said: str) -> None:
    table: SlotTable[int] = SlotTable(INFO)
    table.open()
    with pytest.raises(error, match=said):
        table.check([row])
    table.check([Row(1, [0, 9], 0, "all")])


def test_one_slot_has_one_row_in_a_step() -> None:
    table: SlotTable[int] = SlotTable(INFO)
    slot = table.open()
    with pytest.raises(ValueError, match="the same slot twice"):
        table.check([Row(slot, [1], 0, "last"), Row(slot, [2], 0, "last")])
