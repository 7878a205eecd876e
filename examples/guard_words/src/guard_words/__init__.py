"""An example guard for LLMasOS: replaces words, and blocks texts that hold others."""

from __future__ import annotations

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
        self._kept = ""

    def push(self, piece):
        return self._read(self._kept + piece, final=False)

    def end(self):
        return self._read(self._kept, final=True)

    def _read(self, text, *, final):
        released, place = [], 0
        while place < len(text):
            rest = len(text) - place
            if not final and any(len(word) > rest and word.startswith(text[place:]) for word in self._words):
                break
            word = next((word for word in self._words if text.startswith(word, place)), None)
            if word in self._options.blocked and word is not None:
                return Block("it holds a text that is blocked here", "".join(released))
            released.append(text[place] if word is None else self._options.replacement)
            place += 1 if word is None else len(word)
        self._kept = text[place:]
        return "".join(released)


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
