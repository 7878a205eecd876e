"""Opening a checkpoint and looking at all that it offers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.fuzz.containment import check_sentence
from llmasos.checkpoints import open_checkpoint
from llmasos.checkpoints.chat_template import ChatTemplate
from llmasos.checkpoints.tokenizer import first_sight
from llmasos_hookspecs import LLMasOSError, apart
from llmasos_hookspecs.testing import sandbox

TEXT = "Hello 天气 🙂 2024"


@contextmanager
def probed_here() -> Iterator[None]:
    """What is tried in a child process at first sight is tried in this one, where it is watched; nothing is remembered."""

    def here(function: str, *arguments: Any, **_: Any) -> Any:
        return apart.result(apart.answer(apart.named(function), arguments))

    with ExitStack() as stack:
        for module in (first_sight, apart):
            stack.enter_context(mock.patch.object(module, "Remembered", return_value=set()))
        stack.enter_context(mock.patch.object(apart, "_passed", set()))
        stack.enter_context(mock.patch.object(first_sight, "run_apart", here))
        stack.enter_context(mock.patch.object(sandbox, "run_child", lambda function, arguments, _: here(function, *arguments)))
        yield


def look(path: Path) -> list[str]:
    """Read every tensor, the decoder's config, the digest, the chat template and the tokenizer; what was refused of the last four.

    Raises:
        LLMasOSError: it is no checkpoint, or a tensor cannot be read.
    """
    refused = []
    checkpoint = open_checkpoint(path)
    for name in checkpoint.names():
        checkpoint.shape(name)
        checkpoint.tensor(name)
    for part in (lambda: checkpoint.decoder, lambda: checkpoint.digest, lambda: _chat(checkpoint), lambda: speak(checkpoint.tokenizer())):
        try:
            part()
        except LLMasOSError as error:
            check_sentence(error)
            refused.append(str(error))
    return refused


def _chat(checkpoint: Any) -> None:
    template = ChatTemplate.of(checkpoint)
    if template is not None:
        template.render([{"role": "user", "content": TEXT}])


def speak(tokenizer: Any) -> None:
    """Encode a text and decode it."""
    tokens = tokenizer.encode(TEXT)
    tokenizer.decode(tokens)
    for token in tokens[:20]:
        tokenizer.token_bytes(token)
