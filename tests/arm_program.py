"""What both processors compute: the tokens of a continuation, and the logits of its text, by the demo's loader. Prints JSON, and writes
the logits to a file. Arguments: the model, that file, and the precision."""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path

import numpy as np

import llmasos
from llmasos_backend_onnx.cpu import features_in

with llmasos.load_model(sys.argv[1], loader={"use": "onnx", "precision": sys.argv[3]}, context_length=256) as model:
    generation = model.generate("Once upon a time, there was a", max_new_tokens=12)
    np.save(sys.argv[2], model.logits(model.encode("The tower was built in 1889.")))
    features = sorted(features_in(Path("/proc/cpuinfo").read_text(encoding="utf-8")))
    print(json.dumps({"machine": platform.machine(), "tokens": list(generation.tokens), "features": features}))
