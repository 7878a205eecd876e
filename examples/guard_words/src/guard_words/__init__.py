"""An example guard for LLMasOS: replaces words, and blocks texts that hold others."""

from __future__ import annotations

import re

import attrs

from llmasos_hookspecs import Allow, Block, Component, Replace, hookimpl


@attrs.frozen(kw_only=True)
class Options:
    """Options of the guard."""

    words: tuple[str, ...] = attrs.field(default=(), metadata={"help": "Texts that are replaced wherever they stand."})
    replacement: str = attrs.field(default="[removed]", metadata={"help": "What stands in their place."})
    blocked: tuple[str, ...] = attrs.field(default=(), metadata={"help": "Texts that block what holds them."})
    stages: tuple[str, ...] = attrs.field(
        default=("input", "output", "tool_call", "tool_result"), metadata={"help": "Where the guard looks."}
    )


class Scan:
    """Reads one text from left to right. Of several words at one place the longest counts.

    A place is decided once no longer word can begin there, whatever follows; so the decisions depend on the text alone, and not on the
    pieces in which it comes.
    """

    def __init__(self, options):
        self._options = options
        self._words = sorted({*options.words, *options.blocked} - {""}, key=len, reverse=True)
        self._form = re.compile("|".join(map(re.escape, self._words)) or r"(?!)")
        self._longest = max(map(len, self._words), default=0)
        self._kept = ""

    def push(self, piece):
        return self._read(self._kept + piece, final=False)

    def end(self):
        return self._read(self._kept, final=True)

    def _read(self, text, *, final):
        released, place = [], 0
        while place < len(text):
            found = self._form.search(text, place)
            stop = found.start() if found else len(text)
            if not final and (undecided := self._undecided(text, place, stop)) is not None:
                released.append(text[place:undecided])
                place = undecided
                break
            released.append(text[place:stop])
            place = len(text)
            if found:
                if found[0] in self._options.blocked:
                    return Block("it holds a text that is blocked here", "".join(released))
                released.append(self._options.replacement)
                place = found.end()
        self._kept = text[place:]
        return "".join(released)

    def _undecided(self, text, place, stop):
        """The first place up to ``stop`` where a word may begin that is longer than the rest of the text."""
        for at in range(max(place, len(text) - self._longest + 1), min(stop + 1, len(text))):
            if any(len(word) > len(text) - at and word.startswith(text[at:]) for word in self._words):
                return at
        return None


class Words:
    """The guard: whole texts and streams go through the same scan."""

    def __init__(self, options):
        self._options = options
        self.stages = options.stages
        self.hold = max((len(word) for word in (*options.words, *options.blocked)), default=1) - 1

    def check(self, text, passage):
        scan = Scan(self._options)
        first = scan.push(text)
        last = first if isinstance(first, Block) else scan.end()
        if isinstance(last, Block):
            return last if last is first else attrs.evolve(last, text=first + last.text)
        return Allow() if first + last == text else Replace(first + last)

    def open(self, passage):
        return Scan(self._options)


@hookimpl
def llmasos_component():
    return Component(summary="Replace words, and block texts that hold others.", options=Options)


@hookimpl
def llmasos_create_guard(options, context):
    return Words(options)
