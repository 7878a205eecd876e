"""openvino-genai reading a GGUF, with its continuous batching."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov
import openvino_genai as og

from benchmarks.workload import TimedRequest, Workload


class Driver:
    """Its pipeline takes and gives tokens only, so decode is what a long generation takes beyond a short one.

    Args:
        file: the workload's attribute that names the GGUF file. Its reader rounds Q4_1 again, and reads Q8_0 as it is.
        batch_tokens: computed at once.
        properties: of OpenVINO.
    """

    def __init__(
        self, workload: Workload, file: str = "q8_0", *, batch_tokens: int = 512, properties: dict[str, Any] | None = None
    ) -> None:
        scheduler = og.SchedulerConfig()
        scheduler.max_num_batched_tokens, scheduler.max_num_seqs = batch_tokens, 32
        scheduler.enable_prefix_caching, scheduler.cache_size = False, 2
        self._file = Path(getattr(workload, file))
        self._properties = {"INFERENCE_NUM_THREADS": 2, **(properties or {})}
        self._pipeline = og.ContinuousBatchingPipeline(str(self._file), scheduler, "CPU", self._properties)

    def prefill(self, prompt: list[int]) -> float:
        return self._generate([prompt], [1])

    def decode(self, prompts: list[list[int]], new_tokens: int) -> float:
        short = self._generate(prompts, [1] * len(prompts))
        return max(1e-9, self._generate(prompts, [new_tokens + 1] * len(prompts)) - short)

    def serve(self, requests: list[TimedRequest]) -> float:
        """All at once; its scheduler batches them."""
        return self._generate([each.prompt for each in requests], [each.new_tokens for each in requests])

    def weight_bytes(self) -> int:
        """Its embedding is its head."""
        return self._file.stat().st_size

    def logits(self, tokens: list[int]) -> npt.NDArray[np.float32]:
        """It gives out no logits, so OpenVINO itself runs the graph that its reader makes of the file, with the same properties: the first
        half as a prompt, the second behind it.
        """
        with tempfile.TemporaryDirectory() as folder:
            link = Path(folder) / "model.gguf"
            link.symlink_to(self._file)
            og.LLMPipeline(str(link), "CPU", enable_save_ov_model=True)
            model = ov.Core().compile_model(link.with_name("openvino_model.xml"), "CPU", self._properties)
            request = model.create_infer_request()
            half = len(tokens) // 2
            return np.concatenate([self._run(request, tokens[:half], 0), self._run(request, tokens[half:], half)])

    def _run(self, request: ov.InferRequest, tokens: list[int], start: int) -> npt.NDArray[np.float32]:
        end = start + len(tokens)
        inputs = {
            "input_ids": np.array([tokens], np.int64),
            "attention_mask": np.ones((1, end), np.int64),
            "position_ids": np.arange(start, end, dtype=np.int64)[None],
            "beam_idx": np.zeros(1, np.int32),
        }
        found: npt.NDArray[np.float32] = request.infer(inputs)["logits"][0].copy()
        return found

    def _generate(self, prompts: list[list[int]], new_tokens: list[int]) -> float:
        configs = []
        for count in new_tokens:
            configs.append(og.GenerationConfig())
            configs[-1].max_new_tokens, configs[-1].do_sample, configs[-1].ignore_eos = count, False, True
        inputs = [ov.Tensor(np.array([prompt], dtype=np.int64)) for prompt in prompts]
        began = time.perf_counter()
        self._pipeline.generate(inputs, configs)
        return time.perf_counter() - began
