"""The runtime layer: checkpoints, tokenizers, the engine loop, acceleration and evaluation."""
