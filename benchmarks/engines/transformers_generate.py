"""transformers' own ``generate`` on the dequantised weights."""

from __future__ import annotations

import time

import numpy as np
import numpy.typing as npt
import torch
import transformers

from benchmarks.workload import TimedRequest, Workload


class Driver:
    """Static batches, as ``generate`` makes them."""

    def __init__(self, workload: Workload, dtype: str = "float32") -> None:
        torch.set_num_threads(2)
        self._model = transformers.AutoModelForCausalLM.from_pretrained(workload.dequantised, dtype=getattr(torch, dtype)).eval()

    def prefill(self, prompt: list[int]) -> float:
        return self._generate([prompt], 1)

    def decode(self, prompts: list[list[int]], new_tokens: int) -> float:
        short = self._generate(prompts, 1)
        return max(1e-9, self._generate(prompts, new_tokens + 1) - short)

    def serve(self, requests: list[TimedRequest]) -> float:
        """Batches of 8 in the order of arrival, or one of all: the faster."""
        return min(self._batches(requests, size) for size in (8, len(requests)))

    def _batches(self, requests: list[TimedRequest], size: int) -> float:
        seconds = 0.0
        for start in range(0, len(requests), size):
            batch = requests[start : start + size]
            seconds += self._generate([each.prompt for each in batch], max(each.new_tokens for each in batch))
        return seconds

    def weight_bytes(self) -> int:
        """Its embedding is its head."""
        return sum(weight.numel() * weight.element_size() for weight in self._model.parameters())

    @torch.inference_mode()
    def logits(self, tokens: list[int]) -> npt.NDArray[np.float32]:
        found: npt.NDArray[np.float32] = self._model(torch.tensor([tokens])).logits[0].float().numpy()
        return found

    @torch.inference_mode()
    def _generate(self, prompts: list[list[int]], new_tokens: int) -> float:
        longest = max(len(prompt) for prompt in prompts)
        tokens = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        began = time.perf_counter()
        self._model.generate(
            tokens,
            attention_mask=mask,
            max_new_tokens=new_tokens,
            min_new_tokens=new_tokens,
            do_sample=False,
            pad_token_id=0,
        )
        return time.perf_counter() - began
