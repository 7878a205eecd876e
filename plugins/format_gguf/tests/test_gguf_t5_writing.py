"""T5 written as GGUF: what transformers computes is what is read of the file, by our loaders and by llama.cpp."""

from __future__ import annotations

import ctypes
import io
import json
from collections.abc import Callable
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import gguf
import numpy as np
import pytest
import sentencepiece
import torch
from safetensors.numpy import load_file, save_file
from transformers import MT5Config, MT5ForConditionalGeneration, PreTrainedModel, T5Config, T5ForConditionalGeneration, T5Tokenizer

import llmasos
from llmasos.compose.formats import open_model
from llmasos_format_gguf.write import write_gguf
from llmasos_hookspecs import CheckpointError, UnsupportedModel
from llmasos_tokenizing.sentencepiece_file import read_sentencepiece

LINES = [line for text in topics.values() for line in text.splitlines() if line.strip()]
GATED = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
#: Name -> classes, and what they differ in: T5 1.0, T5 1.1 and Flan-T5, mT5.
MODELS: dict[str, tuple[type[Any], type[Any], dict[str, Any]]] = {
    "t5": (T5Config, T5ForConditionalGeneration, {"num_decoder_layers": 1}),
    "t5-1.1": (T5Config, T5ForConditionalGeneration, GATED),
    "mt5": (MT5Config, MT5ForConditionalGeneration, {"tie_word_embeddings": False}),
}

Made = Callable[[str], tuple[PreTrainedModel, Path, Path]]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> T5Tokenizer:
    """A small unigram model with T5's control tokens."""
    data, path = io.BytesIO(), tmp_path_factory.mktemp("pieces") / "spiece.model"
    # White space becomes a space: a few rules of the many that T5 has, so that reading them takes no time.
    rules = path.with_name("rules.tsv")
    rules.write_text("".join(f"{ord(each):X}\t20\n" for each in "\t\n\r\u00a0\u3000"))
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES[:500]), model_writer=data, vocab_size=200, model_type="unigram", pad_id=0, eos_id=1, unk_id=2,
        bos_id=-1, pad_piece="<pad>", minloglevel=2, normalization_rule_tsv=str(rules),
    )  # fmt: skip
    path.write_bytes(data.getvalue())
    model = read_sentencepiece(path)
    return T5Tokenizer(vocab=list(zip(model.pieces, model.scores, strict=True)), extra_ids=4, _spm_precompiled_charsmap=model.charsmap)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tokenizer: T5Tokenizer) -> Made:
    """The model of a name in ``MODELS``, its folder and its GGUF file in float32; made once."""
    known: dict[str, tuple[PreTrainedModel, Path, Path]] = {}

    def make(name: str) -> tuple[PreTrainedModel, Path, Path]:
        if name not in known:
            config, model_class, changes = MODELS[name]
            torch.manual_seed(1)
            sizes = {"vocab_size": 224, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
            model = model_class(config(**sizes, relative_attention_num_buckets=16, decoder_start_token_id=0, **changes)).eval()
            with torch.no_grad():
                for parameter in model.parameters():
                    noise = torch.randn_like(parameter)
                    parameter.copy_(noise * 0.3) if parameter.dim() > 1 else parameter.add_(noise * 0.1)
            folder = tmp_path_factory.mktemp(name)
            model.save_pretrained(folder / "model")
            tokenizer.save_pretrained(folder / "model")
            write_gguf(open_model(folder / "model"), folder / "model.gguf", "f32")
            known[name] = (model, folder / "model", folder / "model.gguf")
        return known[name]

    return make


def logits_of(model: Any, source: list[int], target: list[int]) -> Any:
    with torch.inference_mode():
        return model(input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([target])).logits[0].numpy()


@pytest.mark.parametrize("name", MODELS)
def test_a_written_t5_computes_what_transformers_does(name: str, made: Made) -> None:
    """Its tokenizer too, which was a unigram model in tokenizer.json: a text as the source, greedy tokens, and logits."""
    model, folder, path = made(name)
    ours, theirs = open_model(path).tokenizer(), open_model(folder).tokenizer()
    assert [ours.encode(line) for line in LINES[:40]] == [theirs.encode(line) for line in LINES[:40]]
    source, target = ours.encode("The standard types\nof the language."), [0, 30, 31, 60]
    assert source[-1] == 1
    with torch.inference_mode():
        greedy = model.generate(torch.tensor([source]), max_new_tokens=8, do_sample=False)[0, 1:].tolist()
    with llmasos.load_model(str(path), loader="torch") as loaded:
        answer = loaded.generate("The standard types\nof the language.", max_new_tokens=8)
        found = loaded.logits(target, source="The standard types\nof the language.")
    assert list(answer.tokens) == [token for token in greedy if token != 1] or list(answer.tokens) == greedy
    right = logits_of(model, source, target)
    assert np.abs(found - right).max() <= 1e-5 * max(1.0, np.abs(right).max())


@pytest.mark.parametrize("name", MODELS)
def test_the_names_are_those_of_the_gguf_package(name: str, made: Made) -> None:
    """Every tensor of the checkpoint is there once, under the name that llama.cpp's converter gives it."""
    _, folder, path = made(name)
    table = gguf.get_tensor_name_map(gguf.MODEL_ARCH.T5, 2)
    stored = set(open_model(folder).names())
    wanted = {table.get_name(each, try_suffixes=(".weight",)) for each in stored} | (set() if name == "t5" else {"output.weight"})
    assert {tensor.name for tensor in gguf.GGUFReader(path).tensors} == wanted


@pytest.mark.peer
@pytest.mark.parametrize("name", MODELS)
def test_llama_cpp_reads_a_written_t5(name: str, made: Made) -> None:
    """It encodes the source and decodes a target: the likeliest tokens of transformers, and logits near those; its attention is in
    float16."""
    native = pytest.importorskip("llama_cpp.llama_cpp", reason="llama-cpp-python is in the dependency group bench")

    @native.llama_log_callback
    def quiet(level: int, text: bytes, data: Any) -> None: ...

    native.llama_log_set(quiet, ctypes.c_void_p(0))
    transformers, folder, path = made(name)
    source, target = open_model(folder).tokenizer().encode("The standard types."), [0, 30, 31, 60]
    model = native.llama_model_load_from_file(str(path).encode(), native.llama_model_default_params())
    params = native.llama_context_default_params()
    params.n_ctx, params.n_threads, params.n_threads_batch = 128, 1, 1
    context = native.llama_init_from_model(model, params)
    try:
        assert native.llama_model_has_encoder(model)
        assert native.llama_model_decoder_start_token(model) == 0
        found = []
        for call, tokens in ((native.llama_encode, source), *((native.llama_decode, [token]) for token in target)):
            assert call(context, native.llama_batch_get_one((native.llama_token * len(tokens))(*tokens), len(tokens))) == 0
            if call is native.llama_decode:
                found.append(np.ctypeslib.as_array(native.llama_get_logits_ith(context, -1), shape=(224,)).copy())
    finally:
        native.llama_free(context)
        native.llama_model_free(model)
    right, got = logits_of(transformers, source, target), np.array(found)
    got *= 32**-0.5 if name == "t5" else 1  # as the note of the export says
    assert (got.argmax(1) == right.argmax(1)).all()
    assert np.linalg.norm(got - right) <= 5e-3 * np.linalg.norm(right)


def test_codes_are_written_where_blocks_fit_and_the_bias_by_distance_stays_exact(made: Made, tmp_path: Path) -> None:
    """llama.cpp does not read that in blocks."""
    written = write_gguf(open_model(made("t5")[1]), tmp_path / "x.gguf", "q8_0")
    kinds = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(written.path).tensors}
    assert kinds["enc.blk.0.attn_q.weight"] == "Q8_0"
    assert kinds["enc.blk.0.attn_rel_b.weight"] == kinds["enc.output_norm.weight"] == "F32"
    assert any("scale" in note for note in written.notes)


def test_a_tied_head_whose_input_is_not_scaled_is_written_apart(made: Made, tmp_path: Path) -> None:
    """A file without a head says that its input is scaled, which T5 1.1 with a tied head does not do."""
    path = made("t5-1.1")[2]
    tensors = {tensor.name: tensor.data for tensor in gguf.GGUFReader(path).tensors}
    assert open_model(path).config["scale_decoder_outputs"] is False
    assert "output.weight" in tensors


def _changed(**config: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        told = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**told, **config}))

    return change


def _with(name: str, like: str, scale: float = 1.0) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        save_file({**tensors, name: scale * tensors[like]}, folder / "model.safetensors")

    return change


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        (_changed(relative_attention_max_distance=64), UnsupportedModel, "takes 128"),
        (_changed(feed_forward_proj="gated-silu"), UnsupportedModel, "gated-silu"),
        (_changed(scale_decoder_outputs=True, tie_word_embeddings=False), CheckpointError, "scales|no output head"),
        (_changed(num_heads=0), CheckpointError, "num_heads"),
        (_changed(num_layers=3), CheckpointError, "3 layers"),
        (_with("lm_head.weight", "shared.weight", 2.0), UnsupportedModel, "another lm_head"),
        (_with("encoder.block.0.layer.0.extra.weight", "shared.weight"), UnsupportedModel, "extra"),
    ],
    ids=["distance", "silu", "scale", "heads", "layers", "head", "tensor"],
)
def test_what_gguf_cannot_say_of_a_t5_is_refused(
    change: Callable[[Path], None], kind: type[Exception], said: str, made: Made, tmp_path: Path
) -> None:
    """In one sentence, and no file stays."""
    for file in made("t5")[1].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    change(tmp_path)
    with pytest.raises(kind, match=said):
        write_gguf(open_model(tmp_path), tmp_path / "x.gguf", "f32")
    assert not list(tmp_path.glob("*x.gguf*"))


def test_tables_that_are_stored_twice_are_written_once(made: Made, tmp_path: Path) -> None:
    """Old checkpoints hold the embedding under each side's name too, and a bias that no model computes."""
    for file in made("t5")[1].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    for name in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"):
        _with(name, "shared.weight")(tmp_path)
    bias = "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    _with("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight", bias)(tmp_path)
    write_gguf(open_model(tmp_path), tmp_path / "x.gguf", "f32")
    one, other = (gguf.GGUFReader(path) for path in (made("t5")[2], tmp_path / "x.gguf"))
    assert [tensor.name for tensor in one.tensors] == [tensor.name for tensor in other.tensors]


def test_a_unigram_model_that_cuts_as_no_sentencepiece_model_does_is_refused(made: Made, tmp_path: Path) -> None:
    """Its pipeline can say more than GGUF: here that every character is lower case."""
    for file in made("t5")[1].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    told = json.loads((tmp_path / "tokenizer.json").read_text())
    told["normalizer"] = {"type": "Sequence", "normalizers": [told["normalizer"], {"type": "Lowercase"}]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(told))
    with pytest.raises(UnsupportedModel, match="SentencePiece does not"):
        write_gguf(open_model(tmp_path), tmp_path / "x.gguf", "f32")
