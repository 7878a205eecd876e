"""Encoders on torch and onnx give what transformers and sentence-transformers give, alone and packed."""

from __future__ import annotations

import asyncio
import json
import shutil
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from tests.tiny_encoders import FAMILIES, TEXTS, write_encoder, write_modules, write_tokenizer

import llmasos
from llmasos.api.model import LanguageModel
from llmasos_hookspecs import ConfigError, ContextLengthExceeded, RequestError, TokenPrompt, UnknownModel, UnsupportedModel

LOADERS = ("torch", "onnx")
Folders = Mapping[str, Path]
Hidden = Mapping[str, list[npt.NDArray[np.float32]]]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Folders, Hidden]:
    """A folder of each family, and the hidden states of each text by transformers, computed alone."""
    import torch
    from transformers import PreTrainedTokenizerFast

    folders, hidden = {}, {}
    for kind in FAMILIES:
        folders[kind] = folder = tmp_path_factory.mktemp(kind)
        model = write_encoder(folder, kind)
        tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
        with torch.inference_mode():
            hidden[kind] = [model(torch.tensor([tokenizer(text).input_ids])).last_hidden_state[0].numpy() for text in TEXTS]
    return folders, hidden


@pytest.fixture(scope="module")
def bert(written: tuple[Folders, Hidden]) -> Iterator[LanguageModel]:
    with llmasos.load_model(str(written[0]["bert"]), loader="onnx") as model:
        yield model


def far(found: Any, wanted: Any) -> float:
    """The largest difference."""
    return float(np.abs(np.asarray(found) - np.asarray(wanted)).max())


#: Families whose layers those of others are made of; the others are computed by one loader on each change.
BOTH = ("bert", "modernbert", "nomic_bert")


@pytest.mark.parametrize(
    ("kind", "loader"),
    [
        pytest.param(kind, loader, marks=[pytest.mark.long] * (loader == "torch" and kind not in BOTH))
        for kind in FAMILIES
        for loader in LOADERS
    ],
)
def test_every_family_gives_what_transformers_gives_alone_and_packed(written: tuple[Folders, Hidden], kind: str, loader: str) -> None:
    """The mean of six texts of unlike lengths, in one batch and each by itself, within 1e-5; of the first family first tokens, too."""
    folder, hidden = written[0][kind], written[1][kind]
    ways = [("auto", [each.mean(0) for each in hidden]), ("cls", [each[0] for each in hidden])]
    for pooling, wanted in ways[: 2 if kind == "bert" else 1]:
        with llmasos.load_model(str(folder), loader={"use": loader, "pooling": pooling}) as model:
            assert far(model.embed(TEXTS, normalize=False), wanted) < 1e-5
            assert far(np.concatenate([model.embed([text], normalize=False) for text in TEXTS]), wanted) < 1e-5


POOLINGS = {
    "cls": {"pooling_mode_cls_token": True}, "max": {"pooling_mode_max_tokens": True, "pooling_mode_mean_tokens": False},
    "sqrt": {"pooling_mode_mean_sqrt_len_tokens": True}, "weighted": {"pooling_mode_weightedmean_tokens": True},
    "last": {"pooling_mode_lasttoken": True}, "two": {"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True},
    "named": {"pooling_mode": ["cls", "lasttoken"]},
}  # fmt: skip


def pooled(hidden: npt.NDArray[np.float32], name: str) -> npt.NDArray[np.float32]:
    """What the pooling of that name makes of one text."""
    places = np.arange(1, len(hidden) + 1)
    ways = {
        "cls": hidden[0], "last": hidden[-1], "max": hidden.max(0), "sqrt": hidden.sum(0) / np.sqrt(len(hidden)),
        "weighted": (hidden * places[:, None]).sum(0) / places.sum(), "mean": hidden.mean(0),
    }  # fmt: skip
    parts = {"two": ("max", "mean"), "named": ("cls", "last")}.get(name, (name,))
    return np.concatenate([ways[part] for part in parts])


@pytest.mark.parametrize(
    ("name", "loader"),
    [
        pytest.param(name, loader, marks=[pytest.mark.long] * (loader == "torch" and name not in ("max", "two")))
        for name in POOLINGS
        for loader in LOADERS
    ],
)
def test_the_pooling_of_a_sentence_transformers_folder_is_followed(
    written: tuple[Folders, Hidden], tmp_path: Path, name: str, loader: str
) -> None:
    """Each mode, and two side by side, on both loaders; texts that are too long for the folder are cut on demand only."""
    folder = tmp_path / "model"
    shutil.copytree(written[0]["bert"], folder)
    write_modules(folder, POOLINGS[name])
    wanted = [pooled(hidden, name) for hidden in written[1]["bert"][:5]]
    with llmasos.load_model(str(folder), loader=loader) as model:
        assert far(model.embed(TEXTS[:5], normalize=False), wanted) < 1e-5
        with pytest.raises(ContextLengthExceeded, match="52 tokens, and the model takes 40"):
            model.embed(TEXTS)
        shorter = " ".join(TEXTS[5].split()[:38])
        assert far(model.embed([TEXTS[5]], truncate=True), model.embed([shorter])) < 1e-6


@pytest.mark.peer
def test_a_folder_with_dense_layers_and_prompts_gives_what_sentence_transformers_gives(tmp_path: Path) -> None:
    """Pooling, a dense layer, normalization, prompts and lengths, as the library that wrote the form computes them."""
    pytest.importorskip("sentence_transformers")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sentence_transformers import SentenceTransformer
    write_encoder(tmp_path, "mpnet")
    prompts = {"query": "w1 w2 w3 ", "document": "w4 "}
    write_modules(tmp_path, {"pooling_mode_mean_tokens": True}, dense=24, normalize=True, prompts=prompts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer = SentenceTransformer(str(tmp_path), device="cpu")
        wanted = {kind: peer.encode(list(TEXTS), prompt_name=name) for kind, name in (("query", "query"), ("passage", "document"))}
    for loader in LOADERS:
        with llmasos.load_model(str(tmp_path), loader=loader) as model:
            assert model.describe()["dimensions"] == 24
            for kind in ("query", "passage"):
                assert far(model.embed(TEXTS, kind, truncate=True), wanted[kind]) < 1e-5


@pytest.mark.peer
@pytest.mark.long  # on each change the folder above is read as that library reads it, and every family is held against transformers
@pytest.mark.parametrize("kind", ["bert", "modernbert", "roberta", "xlm-roberta", "mpnet"])
def test_every_family_gives_what_sentence_transformers_gives(tmp_path: Path, kind: str) -> None:
    """Alone and packed, with the mean of the tokens, which the library takes where a folder says nothing."""
    pytest.importorskip("sentence_transformers")
    write_encoder(tmp_path, kind)
    said = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(said), encoding="utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sentence_transformers import SentenceTransformer

        wanted = SentenceTransformer(str(tmp_path), device="cpu").encode(list(TEXTS[:5]))
    for loader in LOADERS:
        with llmasos.load_model(str(tmp_path), loader=loader) as model:
            assert far(model.embed(TEXTS[:5], normalize=False), wanted) < 1e-5
            assert far(np.concatenate([model.embed([text], normalize=False) for text in TEXTS[:5]]), wanted) < 1e-5


@pytest.mark.parametrize("kind", ["bert", "modernbert", *(pytest.param(kind, marks=pytest.mark.long) for kind in ("roberta", "mpnet"))])
def test_a_cross_encoder_ranks_as_transformers_scores(tmp_path: Path, kind: str) -> None:
    """Query and document are read together, with the segments that the tokenizer gives; scores are between 0 and 1."""
    import torch
    from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast

    model = write_encoder(tmp_path, kind, AutoModelForSequenceClassification.from_config, num_labels=1)
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    query, documents = "w1 w2", [*TEXTS[:5], "w9 w9 w9"]
    scores = []
    with torch.inference_mode():
        for document in documents:
            encoded = tokenizer(query, document, return_tensors="pt", return_token_type_ids=kind == "bert")
            scores.append(float(torch.sigmoid(model(**encoded).logits[0, 0])))
    for loader in LOADERS:
        if kind != "bert":  # the tokenizer tells two segments, and these families have one
            continue
        with llmasos.load_model(str(tmp_path), loader=loader) as ours:
            ranked = ours.rank(query, documents)
            assert [each.index for each in ranked] == sorted(range(len(documents)), key=lambda place: -scores[place])
            assert far([each.score for each in ranked], [scores[each.index] for each in ranked]) < 1e-5
            assert [each.text for each in ours.rank(query, documents, top=2)] == [documents[each.index] for each in ranked[:2]]
            with pytest.raises(UnsupportedModel, match=r"use model\.rank"):
                ours.embed(["w1"])


def test_a_decoder_saved_as_an_embedding_model_gives_its_last_token(tiny_model: Any, tmp_path: Path) -> None:
    """A Qwen3 with the files of sentence-transformers embeds, as Qwen3-Embedding does: the last token's hidden state, of length 1."""
    import torch
    from transformers import PreTrainedTokenizerFast

    decoder = tiny_model("qwen3")
    decoder.save_pretrained(tmp_path)
    write_tokenizer(tmp_path)
    write_modules(tmp_path, {"pooling_mode_lasttoken": True}, normalize=True, prompts={"query": "w7 w8 "})
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    with torch.inference_mode():
        wanted = np.stack([decoder.model(torch.tensor([tokenizer(text).input_ids])).last_hidden_state[0, -1].numpy() for text in TEXTS[:5]])
    with llmasos.load_model(str(tmp_path), loader="torch") as model:
        found = model.embed(TEXTS[:5])
        assert far(found, wanted / np.linalg.norm(wanted, axis=1, keepdims=True)) < 1e-5
        assert far(model.embed(["w1"], "query"), model.embed(["w7 w8 w1"])) < 1e-6


def test_a_plain_decoder_embeds_where_the_pooling_is_named(tiny_model: Any, tmp_path: Path) -> None:
    """On torch its hidden states become a vector as the option says; without the option, and on onnx, one sentence says what to do."""
    import torch
    from transformers import PreTrainedTokenizerFast

    decoder = tiny_model("llama")
    decoder.save_pretrained(tmp_path)
    write_tokenizer(tmp_path)
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    with torch.inference_mode():
        hidden = [decoder.model(torch.tensor([tokenizer(text).input_ids])).last_hidden_state[0].numpy() for text in TEXTS[:5]]
    for pooling, wanted in (("last", [each[-1] for each in hidden]), ("mean", [each.mean(0) for each in hidden])):
        with llmasos.load_model(str(tmp_path), loader={"use": "torch", "pooling": pooling}) as model:
            assert far(model.embed(TEXTS[:5], normalize=False), wanted) < 1e-5
            assert model.describe()["pooling"] == pooling
            with pytest.raises(UnsupportedModel, match=r"generates none"):
                model.generate_text("w1")
    for loader in LOADERS:
        with llmasos.load_model(str(tmp_path), loader=loader) as model:
            for call in (lambda model=model: model.embed(["w1"]), lambda model=model: model.rank("w1", ["w2"])):
                with pytest.raises(
                    UnsupportedModel, match=r'generates text, and has no embeddings .* loader torch with the option pooling = "last"'
                ):
                    call()
    with (
        pytest.raises(ConfigError, match=r'pooling is "last", and .* generates text: .* use the loader torch'),
        llmasos.load_model(str(tmp_path), loader={"use": "onnx", "pooling": "last"}) as model,
    ):
        model.embed(["w1"])


def test_an_encoder_decoder_has_no_pooling(tmp_path: Path) -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    sizes = {"vocab_size": 64, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0}
    T5ForConditionalGeneration(T5Config(**sizes)).save_pretrained(tmp_path)
    write_tokenizer(tmp_path)
    with (
        pytest.raises(ConfigError, match=r'pooling is "last", and .* is an encoder-decoder, which gives no vectors'),
        llmasos.load_model(str(tmp_path), loader={"use": "torch", "pooling": "last"}) as model,
    ):
        model.embed(["w1"])


def test_vectors_are_of_length_one_and_shortened_before_that(bert: LanguageModel) -> None:
    raw = bert.embed(TEXTS, normalize=False)
    assert raw.dtype == np.float32
    assert far(np.linalg.norm(bert.embed(TEXTS), axis=1), 1) < 1e-6
    short = bert.embed(TEXTS, dimensions=8)
    assert short.shape == (len(TEXTS), 8)
    assert far(short, raw[:, :8] / np.linalg.norm(raw[:, :8], axis=1, keepdims=True)) < 1e-6


def test_long_lists_are_encoded_in_windows_and_keep_their_order(bert: LanguageModel) -> None:
    texts = [TEXTS[place % len(TEXTS)] for place in range(2500)]
    found = bert.embed(texts)
    assert far(found, np.tile(bert.embed(TEXTS), (417, 1))[:2500]) < 1e-6


def test_torch_computes_a_large_batch_some_texts_at_a_time(written: tuple[Folders, Hidden], monkeypatch: pytest.MonkeyPatch) -> None:
    """Passes over 110 tokens at most give each of 40 texts what it has alone, in their order."""
    from llmasos_backend_torch.encoder import engine
    from llmasos_backend_torch.encoder.layers import PackedEncoder

    passes: list[int] = []
    forward = PackedEncoder.forward

    def counted(self: PackedEncoder, tokens: Any, types: Any, runs: Any) -> Any:
        passes.append(len(tokens))
        return forward(self, tokens, types, runs)

    monkeypatch.setattr(PackedEncoder, "forward", counted)
    with llmasos.load_model(str(written[0]["bert"]), loader="torch") as model:
        alone = np.concatenate([model.embed([text]) for text in TEXTS])
        passes.clear()
        monkeypatch.setattr(engine, "_CPU_TOKENS", 110)
        found = model.embed([TEXTS[place % len(TEXTS)] for place in range(40)])
    assert far(found, np.tile(alone, (7, 1))[:40]) < 1e-5
    assert max(passes) <= 110 < sum(passes)
    assert len(passes) < 40


def test_token_ids_are_taken_as_they_are(bert: LanguageModel) -> None:
    tokens = bert.encode(TEXTS[0])
    assert far(bert.embed([TokenPrompt(tuple(tokens)), TEXTS[1]]), bert.embed(TEXTS[:2])) < 1e-6
    with pytest.raises(RequestError, match="Text 1 holds a token outside the vocabulary"):
        bert.embed([TokenPrompt((1, 64))])


def test_an_embedding_model_ranks_by_cosine(bert: LanguageModel) -> None:
    vectors = bert.embed(TEXTS)
    ranked = bert.rank(TEXTS[3], TEXTS)
    assert ranked[0].index == 3
    assert far([each.score for each in ranked], sorted((vectors @ vectors[3]).tolist(), reverse=True)) < 1e-5


def test_event_loops_get_the_same(bert: LanguageModel) -> None:
    async def both() -> tuple[Any, Any]:
        found, ranked = await asyncio.gather(bert.aembed(TEXTS), bert.arank(TEXTS[0], TEXTS))
        return found, ranked

    found, ranked = asyncio.run(both())
    assert far(found, bert.embed(TEXTS)) < 1e-6
    assert [each.index for each in ranked] == [each.index for each in bert.rank(TEXTS[0], TEXTS)]


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ("w1", {}, r"texts is a str, and it must be a list of texts; write \[text\] for one"), ([], {}, "texts is empty"),
        (["w1", ""], {}, "Text 2 is empty"), (["w1", 7], {}, "Text 2 is an int"), (["w1"], {"kind": "doc"}, "kind is 'doc'"),
        (["w1"], {"dimensions": 33}, "dimensions is 33, and the model .* has 32"), (["w1"], {"dimensions": 0}, "dimensions is 0"),
    ],
)  # fmt: skip
def test_what_cannot_be_embedded_is_refused_in_one_sentence(bert: LanguageModel, given: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        bert.embed(given, **options)


def test_what_an_encoder_cannot_do_is_said_with_what_to_do(bert: LanguageModel) -> None:
    for call in (lambda: bert.generate_text("w1"), lambda: bert.score("w1", ["w2"]), lambda: bert.logits([2, 3])):
        with pytest.raises(UnsupportedModel, match=r"makes vectors of texts \(model\.embed\) and generates none; name a model"):
            call()
    facts = bert.describe()
    assert (facts["dimensions"], facts["pooling"], facts["features"], facts["state"]) == (32, "mean", ["embed"], "loaded")
    assert bert.usage()["kv_capacity"] == 0


def test_memory_of_an_encoder_counts_in_the_ledger_and_it_is_unloaded_and_loaded_again(written: tuple[Folders, Hidden]) -> None:
    """Weights and one batch are committed to the budget; a limit that holds less is refused in one sentence."""
    folder = str(written[0]["bert"])
    config = {"model": {"source": folder}, "loader": {"use": "onnx"}, "resources": {"memory": "64MiB"}}
    with llmasos.Pipeline.from_config(config) as pipeline:
        model = pipeline.models["default"]
        first = model.embed(TEXTS)
        facts, usage = model.describe(), model.usage()
        assert usage["weight_bytes"] == facts["weight_bytes"] + facts["batch_bytes"] > 0
        assert facts["max_batch_tokens"] >= 64
        model._host.unload_idle()
        assert (model.usage()["state"], model.usage()["weight_bytes"]) == ("not loaded", 0)
        assert far(model.embed(TEXTS), first) == 0
    small = {**config, "resources": {"memory": "100KiB"}}
    with llmasos.Pipeline.from_config(small) as pipeline, pytest.raises(llmasos.LLMasOSError, match="memory"):
        pipeline.models["default"].embed(["w1"])


def test_what_stands_around_a_model_belongs_to_its_digest(tmp_path: Path) -> None:
    """Another pooling, another dense layer and another prompt are another model, so that nothing kept for one serves the other."""
    write_encoder(tmp_path, "bert")
    digests = []
    for pooling, dense, prompts in (("mean", 0, {}), ("cls", 0, {}), ("cls", 8, {}), ("cls", 16, {}), ("cls", 16, {"query": "w1 "})):
        write_modules(tmp_path, {"pooling_mode": pooling}, dense=dense, prompts=prompts)
        with llmasos.Pipeline.from_config({"model": {"source": str(tmp_path)}}) as pipeline:
            digests.append(pipeline.models["default"].checkpoint.digest)
    assert len(set(digests)) == len(digests)


def test_a_model_reaches_another_of_its_config(written: tuple[Folders, Hidden]) -> None:
    """As a task does that config gives the name of an embedding model."""
    sources = {name: {"source": str(written[0][name])} for name in ("bert", "mpnet")}
    with llmasos.Pipeline.from_config({"models": sources}) as pipeline:
        other = pipeline.models["bert"].other("mpnet")
        assert other.name == "mpnet"
        with pytest.raises(UnknownModel):
            other.other("none")


def test_a_servers_client_gets_what_the_model_gives(written: tuple[Folders, Hidden]) -> None:
    """Through the runtime, whose records say what was done; a client's texts are one request, and what follows it is counted again."""
    from llmasos.api.runtime import PipelineRuntime
    from llmasos_hookspecs import Credentials

    config = {"model": {"source": str(written[0]["bert"])}, "loader": {"use": "onnx", "passage_prompt": "w7 w8 w9 "}}
    with llmasos.Pipeline.from_config(config) as pipeline:
        runtime = PipelineRuntime(pipeline, pipeline.composer.access())
        try:
            client = runtime.authenticate(Credentials(client="127.0.0.1"))
            found = np.asarray(runtime.embed(client, TEXTS, dimensions=8))
            assert far(found, pipeline.model.embed(TEXTS, dimensions=8)) < 1e-6
            assert [each.index for each in runtime.rank(client, TEXTS[2], TEXTS, top=1)] == [2]
            assert runtime.active == 0
            assert runtime.models(client)[0].features == {"embed"}
            plain = runtime.count_tokens(client, "w1 w2")
            assert runtime.count_tokens(client, "w1 w2", kind="passage") == plain + 3
            assert runtime.count_tokens(client, "w1 w2", kind="query") == plain
        finally:
            runtime.close()
