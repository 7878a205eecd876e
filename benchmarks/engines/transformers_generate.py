"""transformers' own ``generate`` on the dequantised weights."""

from __future__ import annotations

import time

import numpy as np
import numpy.typing as npt
import torch
import transformers

from benchmarks.workload import Workload


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

    @torch.inference_mode()
    def logits(self, tokens: list[int]) -> npt.NDArray[np.float32]:
        found: npt.NDArray[np.float32] = self._model(torch.tensor([tokens])).logits[0].float().numpy()
        return found

    @torch.inference_mode()
    def _generate(self, prompts: list[list[int]], new_tokens: int) -> float:
        tokens = torch.tensor(prompts)
        began = time.perf_counter()
        self._model.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            max_new_tokens=new_tokens,
            min_new_tokens=new_tokens,
            do_sample=False,
            pad_token_id=0,
        )
        return time.perf_counter() - began
