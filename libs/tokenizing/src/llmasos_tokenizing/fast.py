"""A tokenizer over the ``tokenizers`` library."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Final

from tokenizers import Tokenizer as Backend

from llmasos_hookspecs import RequestError
from llmasos_tokenizing.panics import guarded
from llmasos_tokenizing.pieces import spelling_of

#: Tokens at most whose bytes are kept, for each tokenizer: the library takes longer to tell them than the rest of a token's text.
_KEPT: Final = 1 << 14


class FastTokenizer:
    """Implements ``Tokenizer``. The backend neither cuts nor pads, whatever its file says; nothing changes after the start, so that
    threads may share it.

    Attributes:
        backend: the ``tokenizers.Tokenizer``; not to be changed.
        special_tokens: what the model calls its special tokens: ``bos_token`` -> its text, and so on.
        spelling: how tokens spell text; None where what a token adds depends on its neighbours, so that only ``decode`` tells it.

    Args:
        size: one more than the highest id of the backend's model, where the file says it: all of a large vocabulary takes half a second to
            look through.
    """

    def __init__(self, backend: Backend, *, named: dict[str, str], eos_token_ids: frozenset[int], size: int = 0) -> None:
        backend.no_truncation()
        backend.no_padding()
        self.backend = backend
        self.special_tokens: Mapping[str, str] = named
        self._eos = eos_token_ids
        self._size = size
        self._bytes: dict[int, bytes] = {}
        self._added = {token: (entry.content, entry.special) for token, entry in backend.get_added_tokens_decoder().items()}
        self.spelling = spelling_of(backend)
        bos = named.get("bos_token")
        self._bos: int | None = None if bos is None else backend.token_to_id(bos)

    @property
    def model_file(self) -> tuple[bytes, dict[str, Any]] | None:
        """What stands in a folder instead of tokenizer.json, where no tokenizer.json says the same: the contents of tokenizer.model,
        and settings for tokenizer_config.json."""
        return None

    @cached_property
    def vocab_size(self) -> int:
        """One more than the highest token id."""
        found: Iterable[int] = self._added if self._size else self.backend.get_vocab(with_added_tokens=True).values()
        return max(self._size, 1 + max(found, default=-1))

    @property
    def bos_token_id(self) -> int | None:
        return self._bos

    @property
    def eos_token_ids(self) -> frozenset[int]:
        return self._eos

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        with _telling():
            return self._ids(text, special)

    def encode_pair(self, first: str, second: str, *, limit: int | None = None) -> tuple[list[int], list[int]]:
        """Token ids of two texts together, with what the model expects around and between them, and the segment of each token: 0 or 1.
        ``limit``: the last tokens of the second text are left out where all would be more."""
        with _telling():
            found = self.backend.encode(first, second)
        surplus = 0 if limit is None else max(0, len(found.ids) - limit)
        seconds = [place for place, side in enumerate(found.sequence_ids) if side == 1]
        dropped = set(seconds[len(seconds) - min(surplus, len(seconds)) :])
        kept = [place for place in range(len(found.ids)) if place not in dropped]
        return [found.ids[place] for place in kept], [found.type_ids[place] for place in kept]

    def _ids(self, text: str, special: bool) -> list[int]:
        ids: list[int] = self.backend.encode(text, add_special_tokens=special).ids
        return ids

    def decode(self, tokens: Iterable[int], *, skip_special: bool = True) -> str:
        ids = list(tokens)
        if self.spelling is not None and self.spelling.joined:
            return self._join(ids, skip_special)
        try:
            with guarded():
                text: str = self.backend.decode(ids, skip_special_tokens=skip_special)
        except ValueError as error:
            raise RequestError(f"The model's tokenizer cannot decode the tokens ({error}); mend its tokenizer.json.") from error
        return text

    def _join(self, ids: list[int], skip_special: bool) -> str:
        """The library gives up a whole run of bytes where one is wrong; only that one is."""
        text = b"".join(self.token_bytes(token) for token in ids if not (skip_special and self.is_special(token))).decode(
            "utf-8", "replace"
        )
        dropped = self.spelling.dropped if self.spelling is not None else 0
        return text[min(dropped, len(text) - len(text.lstrip(" "))) :]

    def token_bytes(self, token: int) -> bytes:
        """The bytes of ``token``; none for an id that only pads the vocabulary. Without a ``spelling`` they are those that it has alone."""
        data = self._bytes.get(token)
        if data is None:
            data = self._spelt(token)
            if len(self._bytes) < _KEPT:
                self._bytes[token] = data
        return data

    def _spelt(self, token: int) -> bytes:
        if (added := self._added.get(token)) is not None:
            return added[0].encode()
        piece = self.backend.id_to_token(token)
        if piece is None:
            return b""
        return self.decode([token]).encode() if self.spelling is None else self.spelling.bytes_of(piece)

    def is_special(self, token: int) -> bool:
        added = self._added.get(token)
        return added is not None and added[1]

    def __repr__(self) -> str:
        return f"{type(self).__name__}(vocab_size={self.vocab_size}, bos={self._bos}, eos={sorted(self._eos)})"


@contextmanager
def _telling() -> Iterator[None]:
    """Encode in the ``with`` block: what the library raises becomes ``RequestError``."""
    try:
        with guarded():
            yield
    except TypeError as error:  # how the library refuses a str that has no UTF-8 form
        raise RequestError("The text is no Unicode text, or holds half a surrogate pair; give it as UTF-8.") from error
    except Exception as error:  # the library has no class of its own for what a vocabulary lacks
        raise RequestError(
            f"The model's tokenizer cannot encode the text ({error}); give a text that it knows, or mend its tokenizer.json."
        ) from error
