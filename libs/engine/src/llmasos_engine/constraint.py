"""Constrained decoding: masks of the allowed next tokens, by llguidance (https://github.com/guidance-ai/llguidance)."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from llmasos_hookspecs import Constraint, RequestError, Tokenizer
from llmasos_hookspecs.nesting import levels

#: White space between the tokens of JSON: none, a space, or a new line with its indentation. Without a bound a model can fill its whole
#: answer with it.
_JSON_SPACE: Final[Any] = {"whitespace_flexible": True, "whitespace_pattern": r" |\r?\n[ \t]{0,64}"}

#: Characters, and levels of nesting, of a schema, expression or grammar; the largest in use have some 100,000 and 30.
_LARGEST: Final = 1 << 20
_DEEPEST: Final = 200

#: Longest reason of llguidance's that is worth repeating.
_REASON: Final = 300


class ConstraintState:
    """The parser state of one text in its grammar; ``ends`` are the end-of-sequence tokens."""

    def __init__(self, matcher: Any, ends: Sequence[int]) -> None:
        self._matcher = matcher
        self._ends = list(ends)

    @property
    def complete(self) -> bool:
        """Whether the text is complete and nothing may follow."""
        return bool(self._matcher.is_stopped())

    def allowed(self, vocab_size: int) -> npt.NDArray[np.bool_]:
        """bool [vocab], True where the token may come next. An end-of-sequence token may come only where the text is complete: an
        incomplete text must not end because the vocabulary lacks the bytes to continue it."""
        bits = np.unpackbits(np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8), bitorder="little")
        mask = np.zeros(vocab_size, dtype=np.bool_)  # logits padded beyond the vocabulary stay forbidden
        known = min(vocab_size, len(bits))
        mask[:known] = bits[:known]
        if not self._matcher.is_accepting():
            mask[self._ends] = False
        return mask

    def forced(self) -> list[int]:
        """The tokens that must come next where the grammar leaves no choice."""
        return list(self._matcher.compute_ff_tokens())

    def accept(self, token: int) -> None:
        """Advance by ``token``, which is allowed."""
        self._matcher.consume_token(token)


class ConstraintCompiler:
    """Compiles constraints to grammars for one tokenizer, whose vocabulary it reads once, at the first constraint.

    Thread-safe: a constraint is compiled on the caller's thread, so that no other request waits for it.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._vocabulary: Any = None
        self._lock = threading.Lock()

    def compile(self, constraint: Constraint) -> ConstraintState:
        """Raises ``RequestError`` where the schema, expression or grammar is invalid, or uses features that llguidance lacks."""
        _check_size(constraint)
        from llguidance import LLMatcher  # slow to import, and seldom needed

        with self._lock:
            if self._vocabulary is None:
                self._vocabulary = self._read_vocabulary()
        try:
            grammar = _grammar(constraint)
        except (ValueError, TypeError) as error:
            raise RequestError(_sentence(constraint, str(error))) from error
        matcher = LLMatcher(self._vocabulary, grammar, log_level=0)
        if matcher.is_error():
            raise RequestError(_sentence(constraint, matcher.get_error()))
        return ConstraintState(matcher, sorted(self._tokenizer.eos_token_ids))

    def _read_vocabulary(self) -> Any:
        from llguidance import LLTokenizer, TokenizerWrapper

        tokenizer = self._tokenizer
        if getattr(tokenizer, "spelling", ...) is None:
            raise RequestError(
                "Constrained decoding needs tokens that add the same bytes wherever they stand, and this model's (WordPiece, or with marks"
                " at the ends of words) do not; leave the constraint out, or take a model with a byte-level or SentencePiece vocabulary."
            )
        ends = sorted(tokenizer.eos_token_ids)
        if not ends:
            raise RequestError("Constrained decoding needs a tokenizer with an end-of-sequence token, and this model's has none.")
        return LLTokenizer(TokenizerWrapper(_Bridge(tokenizer, ends[0])), eos_token=ends)


class _Bridge:
    """Adapts a tokenizer to llguidance's interface."""

    def __init__(self, tokenizer: Tokenizer, end: int) -> None:
        self.eos_token_id = end
        self.bos_token_id = tokenizer.bos_token_id
        self.tokens = [tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size)]
        self.special_token_ids = [token for token in range(tokenizer.vocab_size) if tokenizer.is_special(token)]
        self._encode = tokenizer.encode
        special = set(self.special_token_ids)
        self._special = special.__contains__
        self._token_of = {data: token for token, data in reversed(list(enumerate(self.tokens))) if data and token not in special}
        self._longest = max(map(len, self._token_of), default=0)

    def __call__(self, text: str | bytes) -> list[int]:
        """Tokens whose bytes are exactly ``text``: the tokenizer's encoding where it has these bytes, else the longest matching tokens.
        SentencePiece tokenizers prepend a space and others compose characters, which would change text that a grammar forces."""
        data = text.encode() if isinstance(text, str) else text
        found = self._encode(data.decode(errors="replace"), special=False)
        if self._spell(found, data):
            return found
        # Behind a line end no space is put before a text.
        whole = self._encode("\n" + data.decode(errors="replace"), special=False)
        for cut in range(1, len(whole)):
            if self._spell(whole[cut:], data):
                return whole[cut:]
        return self._greedy(data)

    def _spell(self, tokens: list[int], data: bytes) -> bool:
        return b"".join(self.tokens[token] for token in tokens) == data and not any(map(self._special, tokens))

    def _greedy(self, data: bytes) -> list[int]:
        """The longest matching token at each position; stops at bytes that no token begins with."""
        found: list[int] = []
        offset = 0
        while offset < len(data):
            pieces = (data[offset : offset + length] for length in range(min(self._longest, len(data) - offset), 0, -1))
            piece = next((piece for piece in pieces if piece in self._token_of), None)
            if piece is None:
                break
            found.append(self._token_of[piece])
            offset += len(piece)
        return found


def _check_size(constraint: Constraint) -> None:
    """Refuse constraints that would overflow the parser's stack or take minutes to compile."""
    size = 0
    for depth, level in enumerate(levels(constraint.value)):
        size += sum(len(each) if isinstance(each, str) else 1 for each in level)
        if size > _LARGEST:
            raise RequestError(_sentence(constraint, f"it has more than {_LARGEST} characters; make it smaller"))
        if depth >= _DEEPEST:
            raise RequestError(_sentence(constraint, f"it is nested deeper than {_DEEPEST} levels; make it flatter"))
    if isinstance(constraint.value, str):
        depth = most = 0
        for character in constraint.value:
            depth += (character in "([{") - (character in ")]}")
            most = max(most, depth)
        if most > _DEEPEST:
            raise RequestError(_sentence(constraint, f"it is nested deeper than {_DEEPEST} levels; make it flatter"))


def _grammar(constraint: Constraint) -> str:
    from llguidance import LLMatcher

    value = constraint.value
    match constraint.kind:
        case "json_schema":
            schema = value if isinstance(value, str) else json.dumps(value)
            return str(LLMatcher.grammar_from_json_schema(schema, defaults=_JSON_SPACE))
        case "regex":
            return str(LLMatcher.grammar_from_regex(_text(value)))
        case "choices":
            choices = [_text(choice) for choice in value]
            if not choices:
                raise ValueError("it lists no choice")
            return str(LLMatcher.grammar_from_lark("start: " + " | ".join(json.dumps(choice, ensure_ascii=False) for choice in choices)))
        case "grammar":
            return str(LLMatcher.grammar_from_lark(_text(value)))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a string")
    return value


def _sentence(constraint: Constraint, reason: str) -> str:
    reason = " ".join(reason.split())[:_REASON].rstrip(".")
    return f"The {constraint.kind.replace('_', ' ')} cannot be used to constrain the text: {reason}."
