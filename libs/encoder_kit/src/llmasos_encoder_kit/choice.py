"""Whether a checkpoint is meant to encode texts rather than to generate them; decided from small files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from llmasos_checkpoint_kit.folder import inside
from llmasos_encoder_kit.names import FAMILIES
from llmasos_hookspecs import Checkpoint

#: The file by which sentence-transformers says of what a model consists.
MODULES: Final = "modules.json"
#: Further encoders of transformers, unless their config says that they decode.
_OTHERS: Final = frozenset(
    {
        "albert", "bert-generation", "big_bird", "data2vec-text", "deberta", "deberta-v2", "electra", "ernie", "esm", "megatron-bert",
        "mobilebert", "nystromformer", "rembert", "roberta-prelayernorm", "roc_bert", "roformer", "squeezebert", "xlm-roberta-xl", "xmod",
    }
)  # fmt: skip


def is_encoder(checkpoint: Checkpoint) -> bool:
    """Whether the folder is that of sentence-transformers, or its architecture is an encoder's and not set to decode."""
    config = checkpoint.config
    if (config.get("model_type") in FAMILIES or config.get("model_type") in _OTHERS) and config.get("is_decoder") is not True:
        return True
    return inside(model_folder(checkpoint.path), MODULES).is_file()


def is_classifier(config: Mapping[str, Any]) -> bool:
    """Whether a config is of a model that gives a text, or a pair of texts, scores."""
    saved = config.get("architectures")
    return any("ForSequenceClassification" in str(name) for name in saved) if isinstance(saved, list) else False


def model_folder(path: Path) -> Path:
    """The folder of a model's small files. Repositories keep ONNX graphs in a folder ``onnx`` of it."""
    folder = path if path.is_dir() else path.parent
    graphs_only = folder.name == "onnx" and not (folder / "config.json").is_file() and (folder.parent / "config.json").is_file()
    return folder.parent if graphs_only else folder
