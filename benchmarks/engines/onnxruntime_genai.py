"""onnxruntime-genai on an int8 model that its own builder makes."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime_genai as og
from onnx import helper

from benchmarks.workload import Workload

#: Operations that take a few rows of their constants.
_LOOKED_UP = frozenset({"Gather", "GroupQueryAttention"})


class Driver:
    """A generator a measurement, as its users make one a request."""

    def __init__(self, workload: Workload, *, threads: int = 2) -> None:
        if not (Path(workload.genai) / "genai_config.json").is_file():
            build(workload)
        self._folder = Path(workload.genai)
        config = og.Config(workload.genai)
        # Without it two threads are not what it uses, and it is half as fast.
        config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": threads}}}}))
        self._model = og.Model(config)

    def prefill(self, prompt: list[int]) -> float:
        generator = self._generator(1)
        began = time.perf_counter()
        generator.append_tokens(np.array([prompt], dtype=np.int32))
        generator.get_logits()
        return time.perf_counter() - began

    def decode(self, prompts: list[list[int]], new_tokens: int) -> float:
        generator = self._generator(len(prompts))
        generator.append_tokens(np.array(prompts, dtype=np.int32))
        generator.generate_next_token()
        began = time.perf_counter()
        for _ in range(new_tokens):
            generator.generate_next_token()
        return time.perf_counter() - began

    def weight_bytes(self) -> int:
        """Of all that its products and norms read: of the embedding, which it stores in float32 beside its head, a token takes one row, and
        of the tables of rotations one position."""
        graph = onnx.load(self._folder / "model.onnx", load_external_data=False).graph
        stored = {tensor.name: tensor for tensor in graph.initializer}
        read = {name for node in graph.node if node.op_type not in _LOOKED_UP for name in node.input if name in stored}
        return sum(math.prod(stored[name].dims) * helper.tensor_dtype_to_np_dtype(stored[name].data_type).itemsize for name in read)

    def logits(self, tokens: list[int]) -> npt.NDArray[np.float32]:
        """One token a step: the model was built to give the last position's logits only, which is what prefill is fastest with."""
        generator = self._generator(1)
        rows = []
        for token in tokens:
            generator.append_tokens(np.array([[token]], dtype=np.int32))
            rows.append(np.array(generator.get_logits()).reshape(-1).copy())
        return np.stack(rows)

    def _generator(self, batch: int) -> og.Generator:
        params = og.GeneratorParams(self._model)
        params.set_search_options(max_length=512, batch_size=batch, do_sample=False, min_length=512)
        return og.Generator(self._model, params)


def build(workload: Workload) -> None:
    """Run the builder: int8, blocks of 32, logits of the last position only."""
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-m", workload.dequantised, "-o", workload.genai]
    options = ["-p", "int8", "-e", "cpu", "-c", f"{workload.genai}-cache", "--extra_options", "prune_lm_head=true"]
    subprocess.run([*command, *options], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
