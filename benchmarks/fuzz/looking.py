"""Opening a checkpoint and looking at all that it offers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from benchmarks.fuzz.containment import check_sentence
from llmasos.checkpoints.opening import read_checkpoint
from llmasos.checkpoints.tokenizer import first_sight
from llmasos.compose.formats import open_model
from llmasos.compose.guarded_checkpoint import GuardedCheckpoint
from llmasos_chat_templates.template import ChatTemplate
from llmasos_checkpoint_kit.digests import file_digest
from llmasos_format_gguf import llmasos_open
from llmasos_hookspecs import Checkpoint, LLMasOSError, PluginError, apart
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


def open_here(path: Path) -> Checkpoint:
    """A checkpoint as ``llmasos.compose.formats`` opens it, which reads the descriptions of the formats besides."""
    found = None if path.suffix == ".gguf" else read_checkpoint(path)
    if found is None and (model := llmasos_open(path, SimpleNamespace(file_digest=file_digest))) is not None:
        return GuardedCheckpoint(model, 'format "gguf"')
    return found or open_model(path)


def look(path: Path) -> list[str]:
    """Read every tensor, the decoder's config, the digest, the chat template and the tokenizer; what was refused of the last four.

    Raises:
        LLMasOSError: it is no checkpoint, or a tensor cannot be read.
        AssertionError: a format raised something else, which core turned into an error that names the plugin.
    """
    with no_plugin_fails():
        return _look(open_here(path))


@contextmanager
def no_plugin_fails() -> Iterator[None]:
    """A file never makes a format fail, however core contains it."""
    try:
        yield
    except PluginError as error:
        raise AssertionError(str(error)) from error


def _look(checkpoint: Checkpoint) -> list[str]:
    refused = []
    for name in checkpoint.names():
        checkpoint.shape(name)
        checkpoint.tensor(name)
    for part in (lambda: checkpoint.decoder, lambda: checkpoint.digest, lambda: _chat(checkpoint), lambda: speak(checkpoint.tokenizer())):
        try:
            part()
        except PluginError:
            raise
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
