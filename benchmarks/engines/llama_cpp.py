"""llama.cpp through llama-cpp-python's low-level binding: its Python classes hold one sequence only."""

from __future__ import annotations

import ctypes
import time

import llama_cpp
import numpy as np
import numpy.typing as npt

from benchmarks.workload import Workload

_SEQUENCES = 32


@llama_cpp.llama_log_callback
def _silent(_level: int, _text: bytes, _data: ctypes.c_void_p) -> None:
    """llama.cpp logs to standard error."""


class Driver:
    """One context with room for ``_SEQUENCES`` sequences.

    Args:
        file: the workload's attribute that names the GGUF file.
        flash_attention: computed without the whole matrix of scores.
        unified: one KV cache for all sequences, rather than one each.
        micro_batch: tokens computed at once.
    """

    def __init__(
        self, workload: Workload, file: str = "gguf", *, flash_attention: bool = True, unified: bool = True, micro_batch: int = 512
    ) -> None:
        llama_cpp.llama_log_set(_silent, None)
        llama_cpp.llama_backend_init()
        model_params = llama_cpp.llama_model_default_params()
        # The AMX buffers of 0.3.36 crash on Q4_1 weights; without them it runs on AVX-512.
        model_params.use_extra_bufts = False
        self._model = llama_cpp.llama_model_load_from_file(getattr(workload, file).encode(), model_params)
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = 512 * _SEQUENCES, 512, micro_batch
        params.n_seq_max, params.kv_unified = _SEQUENCES, unified
        params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED if flash_attention else llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.n_threads = params.n_threads_batch = 2
        self._context = llama_cpp.llama_init_from_model(self._model, params)
        self._vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))
        self._batch = llama_cpp.llama_batch_init(512, 0, 1)

    def prefill(self, prompt: list[int]) -> float:
        self._clear()
        began = time.perf_counter()
        self._run([(0, prompt, 0)])
        self._row(len(prompt) - 1)
        return time.perf_counter() - began

    def decode(self, prompts: list[list[int]], new_tokens: int) -> float:
        self._clear()
        last = []
        for sequence, prompt in enumerate(prompts):
            self._run([(sequence, prompt, 0)])
            last.append(int(self._row(len(prompt) - 1).argmax()))
        began = time.perf_counter()
        for step in range(new_tokens):
            self._run([(sequence, [last[sequence]], len(prompt) + step) for sequence, prompt in enumerate(prompts)])
            last = [int(self._row(place).argmax()) for place in range(len(prompts))]
        return time.perf_counter() - began

    def logits(self, tokens: list[int]) -> npt.NDArray[np.float32]:
        self._clear()
        self._run([(0, tokens, 0)], every=True)
        return np.stack([self._row(place).copy() for place in range(len(tokens))])

    def weight_bytes(self) -> int:
        """What it reads of weights for a token; its embedding is its head."""
        return int(llama_cpp.llama_model_size(self._model))

    def _run(self, rows: list[tuple[int, list[int], int]], *, every: bool = False) -> None:
        batch, place = self._batch, 0
        for sequence, tokens, position in rows:
            for offset, token in enumerate(tokens):
                batch.token[place], batch.pos[place] = token, position + offset
                batch.n_seq_id[place], batch.seq_id[place][0] = 1, sequence
                batch.logits[place] = every or offset == len(tokens) - 1
                place += 1
        batch.n_tokens = place
        code = llama_cpp.llama_decode(self._context, batch)
        if code:
            raise RuntimeError(f"llama_decode returned {code}")

    def _row(self, place: int) -> npt.NDArray[np.float32]:
        return np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(self._context, place), (self._vocabulary,))

    def _clear(self) -> None:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), True)
