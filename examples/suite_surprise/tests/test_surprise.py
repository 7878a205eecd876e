"""What this suite measures."""

import numpy as np
from suite_surprise import Options, Surprise

from llmasos_hookspecs.testing import ReferenceDecoder, SandboxModel, tiny_checkpoint


def test_it_is_the_mean_of_the_halves():
    """As the reference decoder computes it, token by token."""
    checkpoint = tiny_checkpoint("llama")
    model = SandboxModel(checkpoint=checkpoint)
    result = Surprise(Options(windows=2, length=16)).measure(model)
    decoder, halves = ReferenceDecoder(checkpoint), []
    for window in model.windows(2, 16).tolist():
        logits = decoder.logits(window)[:-1].astype(np.float64)
        losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(15), window[1:]]
        halves.append((losses[:8].mean(), losses[8:].mean()))
    early, late = np.mean(halves, axis=0)
    assert np.isclose(result.figure("early").value, early, atol=1e-4)
    assert np.isclose(result.figure("late").value, late, atol=1e-4)
    assert np.isclose(result.figure("gained").value, early - late, atol=1e-4)
