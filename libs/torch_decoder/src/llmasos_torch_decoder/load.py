"""Loads a checkpoint's weights into a decoder."""

from __future__ import annotations

import torch

from llmasos_hookspecs import Checkpoint, CheckpointError, as_float32, require_plain
from llmasos_torch_decoder.decoder import Decoder


def load_decoder(checkpoint: Checkpoint) -> Decoder:
    """The checkpoint as a float32 decoder in evaluation mode, quantised weights dequantised.

    Raises:
        UnsupportedModel: it is no decoder of the plain Llama form.
        CheckpointError: a tensor is missing or of the wrong shape.
    """
    with torch.device("meta"):
        decoder = Decoder(require_plain(checkpoint, "The torch decoder of the accelerators"))
    names = set(checkpoint.names())
    state = {}
    for name, parameter in decoder.state_dict().items():
        if name not in names:
            raise CheckpointError(f"{checkpoint.path} lacks the tensor {name}, which config.json asks for; the checkpoint is damaged.")
        # A copy: the checkpoint's arrays may be read-only views of the file.
        tensor = torch.from_numpy(as_float32(checkpoint.tensor(name)).copy())
        if tensor.shape != parameter.shape:
            raise CheckpointError(
                f"{checkpoint.path} has {name} of shape {list(tensor.shape)}, and config.json asks for {list(parameter.shape)}; "
                "the checkpoint is damaged."
            )
        state[name] = tensor
    decoder.load_state_dict(state, assign=True)
    return decoder.eval()
