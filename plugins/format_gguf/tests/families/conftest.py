"""Models of GGUF's architectures with their files, made once a session, and llama.cpp to open them."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedModel

from llmasos.compose.formats import open_model
from llmasos_format_gguf.write import write_gguf
from llmasos_hookspecs import Checkpoint

from .models import byte_level_tokenizer, tiny


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[PreTrainedModel, Path, Path]]:
    """The model of a name in ``MODELS``, its folder and its GGUF file in float32; made once."""
    found: dict[str, tuple[PreTrainedModel, Path, Path]] = {}

    def make(name: str) -> tuple[PreTrainedModel, Path, Path]:
        if name not in found:
            folder = tmp_path_factory.mktemp("model")
            model = tiny(name)
            model.save_pretrained(folder / "model")
            byte_level_tokenizer(folder / "model")
            write_gguf(open_model(folder / "model"), folder / "model.gguf", "f32")
            found[name] = (model, folder / "model", folder / "model.gguf")
        return found[name]

    return make


@pytest.fixture(scope="session")
def opened() -> Callable[[Path], Checkpoint]:
    """The checkpoint at a path, opened once; no test changes it."""
    return functools.cache(open_model)


@pytest.fixture(scope="module")
def llama_cpp_model() -> Iterator[Callable[[Path], Any]]:
    """Open a file with llama.cpp, which says nothing; closed at the end of the module."""
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is in the dependency group bench")

    @llama_cpp.llama_log_callback
    def quiet(level: int, text: bytes, data: Any) -> None: ...

    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    opened = []

    def make(path: Path, context: int = 128) -> Any:
        opened.append(llama_cpp.Llama(str(path), n_ctx=context, logits_all=True, verbose=False, n_threads=1, n_threads_batch=1))
        return opened[-1]

    yield make
    for model in opened:
        model.close()
