"""The allow list of Keras objects for decoders; a file that names any other is refused before Keras reads it.

Keras instantiates the class that a file's ``class_name`` and ``module`` name. Its safe mode blocks code inside the file, but allows every
class of Keras and its packages with any arguments: layers that load other models, run code, or take paths.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from llmasos_hookspecs import CheckpointError

_MODELS: Final = (
    *("Bloom", "Falcon", "Gemma", "Gemma3", "GPT2", "GPTNeoX", "GptOss", "Llama", "Llama3", "Mistral", "Mixtral", "OPT", "Phi3"),
    *("Qwen", "Qwen2", "Qwen3", "QwenMoe", "Qwen3Moe", "SmolLM3"),
)
#: KerasHub's decoders of text, and what they carry for a text, which is made but not used.
HUB_MODELS: Final = frozenset(f"{name}{part}" for name in _MODELS for part in ("Backbone", "CausalLM", "CausalLMPreprocessor", "Tokenizer"))
#: KerasHub's layers for own decoders.
HUB_LAYERS: Final = frozenset(
    {
        *("AlibiBias", "CachedMultiHeadAttention", "PositionEmbedding", "ReversibleEmbedding", "RotaryEmbedding", "RMSNormalization"),
        *("SinePositionEncoding", "TokenAndPositionEmbedding", "TransformerDecoder"),
    }
)
#: Keras's own classes: of models and layers, of types, of initial values and penalties (which a loaded model does not use).
KERAS_CLASSES: Final = frozenset(
    {
        *("Functional", "Model", "Sequential", "InputLayer", "Input", "InputSpec"),
        *("Dense", "EinsumDense", "Embedding", "ReversibleEmbedding", "Conv1D", "DepthwiseConv1D", "SeparableConv1D", "ZeroPadding1D"),
        *("Attention", "MultiHeadAttention", "GroupQueryAttention"),
        *("LayerNormalization", "RMSNormalization", "UnitNormalization", "Dropout", "SpatialDropout1D"),
        *("Activation", "ReLU", "LeakyReLU", "PReLU", "ELU", "Softmax", "Identity"),
        *("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Concatenate", "Dot", "Reshape", "Permute", "RepeatVector"),
        *("LSTM", "LSTMCell", "GRU", "GRUCell", "SimpleRNN", "SimpleRNNCell"),
        *("DTypePolicy", "FloatDTypePolicy", "DTypePolicyMap", "QuantizedDTypePolicy", "QuantizedFloat8DTypePolicy", "Int4DTypePolicy"),
        *("Int8QuantizationConfig", "Int4QuantizationConfig", "AbsMaxQuantizer"),
        *("Zeros", "Ones", "Constant", "RandomNormal", "RandomUniform", "TruncatedNormal", "VarianceScaling", "Orthogonal"),
        *("GlorotNormal", "GlorotUniform", "HeNormal", "HeUniform", "LecunNormal", "LecunUniform", "L1", "L2", "L1L2"),
    }
)
#: Arithmetic between the layers of a functional model (``x + y``), written down as Keras's operations.
KERAS_OPERATIONS: Final = frozenset(
    {
        *("Add", "Subtract", "Multiply", "Divide", "TrueDivide", "Negative", "Power", "Square", "Sqrt", "Exp", "Sin", "Cos", "Tanh"),
        *("Matmul", "Transpose", "Reshape", "ExpandDims", "Squeeze", "Concatenate", "Stack", "GetItem", "Mean", "Sum", "Cast"),
        *("Relu", "Silu", "Gelu", "Sigmoid", "Softmax"),
    }
)
ACTIVATIONS: Final = frozenset(
    {"linear", "relu", "gelu", "gelu_approximate", "silu", "swish", "sigmoid", "tanh", "softmax", "softplus", "elu", "leaky_relu", "mish"}
)
#: Wrappers of values that JSON cannot represent.
_VALUES: Final = frozenset({"__keras_tensor__", "__tuple__", "__slice__", "__ellipsis__"})

_HUB_MODULE: Final = re.compile(r"keras_(hub|nlp)(\.src)?\.(models|layers)(\.[a-z0-9_]+)*")
_KERAS_MODULE: Final = re.compile(r"keras(\.src)?(\.(layers|models|dtype_policies|quantizers|initializers|regularizers)(\.[a-z0-9_]+)*)?")
_OPERATION_MODULE: Final = re.compile(r"keras(\.src)?\.ops(\.(numpy|nn|core))?")
#: What a tokenizer takes as a path of any file; a saved one has them in its own assets.
_ASSETS: Final = ("vocabulary", "merges", "proto")


def check_objects(config: Any, path: Path) -> None:
    """Check that every object of a Keras configuration is on the allow list.

    Raises:
        CheckpointError: one is not; the message names it.
    """
    for item in _objects(config):
        name = item["class_name"]
        if name in ("Lambda", "__lambda__"):
            raise CheckpointError(
                f"{path} holds a Lambda layer, whose code would run when it is loaded; replace it by a layer without code."
            )
        if not _is_known(item):
            raise CheckpointError(
                f"{path} holds {str(item.get('module'))[:80]}.{str(name)[:80]}, and the loader tf makes only the layers that decoders of "
                "text are made of; build the model from Keras's own layers."
            )


def _is_known(item: Mapping[str, Any]) -> bool:
    name, module, registered = item["class_name"], item.get("module"), item.get("registered_name")
    if not isinstance(name, str):
        return False
    if name in _VALUES:
        return True
    if name == "function":
        return module in ("builtins", "keras.activations") and item.get("config") in ACTIVATIONS and registered in (None, item["config"])
    if not isinstance(module, str) or registered not in (None, name, f"keras_hub>{name}", f"keras_nlp>{name}"):
        return False
    if _HUB_MODULE.fullmatch(module):
        settings = item.get("config")
        assets = [settings.get(key) for key in _ASSETS] if name.endswith("Tokenizer") and isinstance(settings, Mapping) else []
        return (name in HUB_MODELS or name in HUB_LAYERS) and all(asset is None for asset in assets)
    if _OPERATION_MODULE.fullmatch(module):
        return name in KERAS_OPERATIONS
    return bool(_KERAS_MODULE.fullmatch(module)) and name in KERAS_CLASSES


def _objects(config: Any) -> Iterator[Mapping[str, Any]]:
    todo = [config]
    while todo:
        item = todo.pop()
        if isinstance(item, Mapping):
            if "class_name" in item:
                yield item
            todo += item.values()
        elif isinstance(item, list):
            todo += item
