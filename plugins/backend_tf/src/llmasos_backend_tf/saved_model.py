"""SavedModels of a decoder: a signature ``input_ids (, attention_mask) -> logits``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import tensorflow as tf

from llmasos_backend_tf.recompute import Model
from llmasos_hookspecs import Checkpoint, CheckpointError, Engine, EngineLimits, UnsupportedModel

#: Context of a model whose files do not say it.
_DEFAULT_CONTEXT: Final = 2048

#: Operations with which a graph reaches files, other processes or Python. Those that restore the model's own variables are not among
#: them: TensorFlow gives them the path of the folder that is being loaded.
_FORBIDDEN: Final = frozenset(
    {
        *("ReadFile", "WriteFile", "MatchingFiles", "WholeFileReader", "WholeFileReaderV2", "TextLineReader", "TextLineReaderV2"),
        *("FixedLengthRecordReader", "FixedLengthRecordReaderV2", "TFRecordReader", "TFRecordReaderV2", "IdentityReaderV2"),
        *("TextLineDataset", "TFRecordDataset", "TFRecordDatasetV2", "FixedLengthRecordDataset", "FixedLengthRecordDatasetV2"),
        *("LoadDataset", "SaveDataset", "SaveDatasetV2", "SnapshotDataset", "SnapshotDatasetV2", "CSVDataset", "SqlDataset"),
        *("PyFunc", "PyFuncStateless", "EagerPyFunc", "PrintV2", "RpcCall", "RpcClient", "RpcServer", "DebugIdentityV2"),
        *("InitializeTableFromTextFile", "CreateSummaryFileWriter", "WriteSummary", "LookupTableExportV2"),
    }
)


def load_saved_model(checkpoint: Checkpoint, limits: EngineLimits, notes: list[str]) -> Engine:
    """An engine that calls the model's signature.

    Raises:
        CheckpointError: the folder is damaged, or its graph would read or write files or run Python.
        UnsupportedModel: no signature takes token ids and gives logits.
    """
    folder = checkpoint.path
    _check_operations(folder)
    try:
        loaded = tf.saved_model.load(str(folder))
    except Exception as error:  # TensorFlow raises many kinds for a damaged folder
        raise CheckpointError(f"{folder} is a damaged SavedModel ({_first_line(error)}); export it again.") from error
    function, inputs, output = _find_signature(folder, loaded)
    tokens = inputs["input_ids"]
    rows, length = tokens.shape.as_list()
    context = checkpoint.config.get("max_position_embeddings")

    def logits(ids: Any, mask: Any) -> Any:
        given = {"input_ids": tf.constant(ids, tokens.dtype)}
        if "attention_mask" in inputs:
            given["attention_mask"] = tf.constant(mask, inputs["attention_mask"].dtype)
        # `loaded` owns the variables that the signature reads; the closure keeps it alive.
        return function(**given)[output].numpy() if loaded is not None else None

    model = Model(
        logits=logits,
        vocab_size=_vocabulary(function, output, logits, rows, length),
        weight_bytes=sum(file.stat().st_size for file in (*folder.glob("variables/variables.data-*"), folder / "saved_model.pb")),
        rows=rows,
        length=length,
        context_length=context if isinstance(context, int) and context > 0 else None,
    )
    return model.engine(limits, notes, _DEFAULT_CONTEXT)


def _find_signature(folder: Path, loaded: Any) -> tuple[Any, dict[str, Any], str]:
    described = []
    for name, function in loaded.signatures.items():
        inputs = dict(function.structured_input_signature[1])
        outputs = dict(function.structured_outputs)
        described.append(f"{name}({', '.join(inputs)}) -> {', '.join(outputs)}")
        fits = "input_ids" in inputs and set(inputs) <= {"input_ids", "attention_mask"} and "logits" in outputs
        if (
            fits
            and inputs["input_ids"].dtype in (tf.int32, tf.int64)
            and inputs["input_ids"].shape.rank == outputs["logits"].shape.rank - 1 == 2
        ):
            return function, inputs, "logits"
    raise UnsupportedModel(
        f"{folder} has the signatures {'; '.join(described) or 'none'}, and the loader tf needs one that takes whole numbers input_ids "
        "[batch, tokens], attention_mask at most beside it, and gives logits [batch, tokens, vocabulary]; export one."
    )


def _vocabulary(function: Any, output: str, logits: Any, rows: int | None, length: int | None) -> int:
    known = function.structured_outputs[output].shape[-1]
    if known is not None:
        return int(known)
    one = np.zeros((rows or 1, length or 8), np.int32)
    return int(logits(one, np.ones_like(one)).shape[-1])


def _check_operations(folder: Path) -> None:
    from tensorflow.core.protobuf import saved_model_pb2

    try:
        proto = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    except Exception as error:
        raise CheckpointError(f"{folder / 'saved_model.pb'} is damaged ({_first_line(error)}); export the model again.") from error
    found = sorted(set(_operations(proto)) & _FORBIDDEN)
    if found:
        raise CheckpointError(
            f"{folder} holds the operations {', '.join(found)}, which reach files, other processes or Python and are never run; export the "
            "model without them."
        )


def _operations(proto: Any) -> Iterator[str]:
    for graph in proto.meta_graphs:
        yield from (node.op for node in graph.graph_def.node)
        for function in graph.graph_def.library.function:
            yield from (node.op for node in function.node_def)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
