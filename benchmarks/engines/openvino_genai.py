"""openvino-genai reading the GGUF, with its continuous batching."""

from __future__ import annotations

import time

import numpy as np
import openvino as ov
import openvino_genai as og

from benchmarks.workload import Workload


class Driver:
    """Its pipeline takes and gives tokens only, so decode is what a long generation takes beyond a short one."""

    def __init__(self, workload: Workload) -> None:
        scheduler = og.SchedulerConfig()
        scheduler.max_num_batched_tokens, scheduler.max_num_seqs = 512, 32
        scheduler.enable_prefix_caching, scheduler.cache_size = False, 2
        self._pipeline = og.ContinuousBatchingPipeline(workload.gguf, scheduler, "CPU", {"INFERENCE_NUM_THREADS": 2})

    def prefill(self, prompt: list[int]) -> float:
        return self._generate([prompt], 1)

    def decode(self, prompts: list[list[int]], new_tokens: int) -> float:
        short = self._generate(prompts, 1)
        return max(1e-9, self._generate(prompts, new_tokens + 1) - short)

    def logits(self, tokens: list[int]) -> None:
        """It gives out no logits; its quality cannot be told, so its rows never count as exact."""

    def _generate(self, prompts: list[list[int]], new_tokens: int) -> float:
        config = og.GenerationConfig()
        config.max_new_tokens, config.do_sample, config.ignore_eos = new_tokens, False, True
        inputs = [ov.Tensor(np.array([prompt], dtype=np.int64)) for prompt in prompts]
        began = time.perf_counter()
        self._pipeline.generate(inputs, [config] * len(prompts))
        return time.perf_counter() - began
