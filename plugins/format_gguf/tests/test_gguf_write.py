"""Writing GGUF: codes that are kept, rounding, what is refused, and that a file appears whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE, WordLevel

from llmasos.compose.formats import open_model
from llmasos_chat_templates.template import ChatTemplate
from llmasos_format_gguf.vocabulary import pre_name
from llmasos_format_gguf.write import TYPES, write_gguf
from llmasos_hookspecs import CheckpointError, LLMasOSError, RequestError, UnsupportedModel, as_float32
from llmasos_tokenizing.pieces import SPELLING
from llmasos_tokenizing.pretokenizers import PRE_TOKENIZERS

Saved = Callable[..., Path]


@pytest.mark.parametrize("kind", TYPES)
def test_a_file_of_each_type_is_read_as_the_model_that_it_was_written_of(kind: str, tmp_path: Path, saved: Saved) -> None:
    source = open_model(saved("llama", hidden_size=256, intermediate_size=512, head_dim=64))
    written = write_gguf(source, tmp_path / "x.gguf", kind)
    found = open_model(tmp_path / "x.gguf")
    most = {"f32": 0, "f16": 5e-4, "bf16": 4e-3, "q8_0": 0.01, "q6_k": 0.03, "q5_0": 0.06, "q5_1": 0.06}.get(kind, 0.12)
    assert set(found.names()) == set(source.names())
    for name in source.names():
        wanted, got = as_float32(source.tensor(name)), as_float32(found.tensor(name))
        limit = 0 if wanted.ndim == 1 else most
        assert np.linalg.norm(got - wanted) <= limit * np.linalg.norm(wanted), name
    assert written.size == (tmp_path / "x.gguf").stat().st_size
    assert sum(written.tensors.values()) == len(source.names())
    reader = gguf.GGUFReader(tmp_path / "x.gguf")  # another reader than ours finds the same
    assert {tensor.name: tensor.tensor_type for tensor in reader.tensors}["blk.0.ffn_up.weight"] == TYPES[kind][0]
    assert reader.fields["general.file_type"].contents() == TYPES[kind][1]


def test_columns_that_blocks_do_not_divide_take_a_smaller_block_and_a_note_says_so(tmp_path: Path, saved: Saved) -> None:
    source = open_model(saved("llama"))  # 64 and 96 columns
    assert any("Q5_0" in note for note in write_gguf(source, tmp_path / "a.gguf", "q4_k").notes)
    odd = open_model(saved("qwen2", hidden_size=40, head_dim=10, intermediate_size=96))
    written = write_gguf(odd, tmp_path / "b.gguf", "q8_0")
    assert written.tensors["F16"] > 0
    assert any("F16" in note for note in written.notes)


def test_a_window_that_llama_cpp_leaves_out_is_noted(tmp_path: Path, saved: Saved) -> None:
    noted = write_gguf(open_model(saved("mistral", sliding_window=9)), tmp_path / "a.gguf", "f32").notes
    assert any("without its window of 9 tokens" in note for note in noted)
    wide = write_gguf(open_model(saved("mistral", sliding_window=4096)), tmp_path / "b.gguf", "f32").notes
    assert not any("window" in note for note in wide)


def test_a_gguf_file_is_written_again_with_its_codes_its_tokenizer_and_its_licence(
    tmp_path: Path, tiny_model: Any, write_gguf: Any
) -> None:
    from llmasos_format_gguf.write import write_gguf as write

    def more(writer: gguf.GGUFWriter) -> None:
        writer.add_license("Apache-2.0")
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("qwen2")
        writer.add_token_list([*(SPELLING[byte] for byte in range(256)), *(f"t{i}" for i in range(32))])
        writer.add_token_types([1] * 288)
        writer.add_token_merges(["a b"])
        writer.add_add_bos_token(False)
        writer.add_chat_template("{{ messages }}")

    source = open_model(write_gguf(tmp_path / "a.gguf", tiny_model("llama"), kind=GGMLQuantizationType.Q4_1, metadata=more))
    write(source, tmp_path / "b.gguf", "q4_1")
    one, other = gguf.GGUFReader(tmp_path / "a.gguf"), gguf.GGUFReader(tmp_path / "b.gguf")
    tensors = {tensor.name: tensor for tensor in other.tensors}
    for tensor in one.tensors:
        if tensor.name not in ("token_embd.weight", "output.weight"):  # in Q8_0 now
            np.testing.assert_array_equal(tensor.data, tensors[tensor.name].data, err_msg=tensor.name)
    for key, field in one.fields.items():
        if key.startswith("tokenizer.") or key == "general.license":
            assert other.fields[key].contents() == field.contents(), key
            assert other.fields[key].types == field.types, key
    assert open_model(tmp_path / "b.gguf").config == source.config


class TestOutput:
    """Where the file goes."""

    def test_a_file_that_exists_is_kept_unless_force_says_otherwise(self, tmp_path: Path, saved: Saved) -> None:
        source = open_model(saved("llama"))
        output = tmp_path / "x.gguf"
        output.write_text("mine")
        with pytest.raises(RequestError, match="exists already"):
            write_gguf(source, output, "q8_0")
        assert output.read_text() == "mine"
        write_gguf(source, output, "q8_0", force=True)
        assert open_model(output).format == "gguf"

    def test_a_link_that_leads_nowhere_is_something_that_exists(self, tmp_path: Path, saved: Saved) -> None:
        (tmp_path / "x.gguf").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(RequestError, match="exists already"):
            write_gguf(open_model(saved("llama")), tmp_path / "x.gguf", "q8_0")

    def test_a_folder_or_an_unknown_type_is_refused(self, tmp_path: Path, saved: Saved) -> None:
        source = open_model(saved("llama"))
        with pytest.raises(RequestError, match=r"is a folder; name the file"):
            write_gguf(source, tmp_path, "q8_0")
        with pytest.raises(RequestError, match=r"no GGUF type 'q3_k' to write; those that are: f32, f16"):
            write_gguf(source, tmp_path / "x.gguf", "q3_k")

    def test_nothing_is_left_where_a_tensor_cannot_be_written(self, tmp_path: Path, tiny_model: Any) -> None:
        model = tiny_model("llama")
        model.model.layers[1].mlp.down_proj.weight.data[0, 0] = float("nan")
        model.save_pretrained(tmp_path / "m")
        with pytest.raises(CheckpointError, match=r"holds NaN or infinity in model\.layers\.1\.mlp\.down_proj\.weight"):
            write_gguf(open_model(tmp_path / "m"), tmp_path / "out" / "x.gguf", "q8_0")
        assert list((tmp_path / "out").iterdir()) == []

    def test_progress_counts_the_bytes_that_are_written(self, tmp_path: Path, saved: Saved) -> None:
        totals, seen = [], []

        def progress(total: int) -> Any:
            totals.append(total)
            return nullcontext(SimpleNamespace(advance=seen.append))

        write_gguf(open_model(saved("llama")), tmp_path / "x.gguf", "q4_0", progress=progress)
        assert [sum(seen)] == totals
        assert totals[0] > 0


@pytest.mark.parametrize(
    ("kind", "changes", "words"),
    [
        ("llama", {"hidden_act": "gelu"}, "hidden_act = 'gelu', and a GGUF of llama can only say 'silu'"),
        ("llama", {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "rope scaling 'dynamic'"),
        (
            "qwen2",
            {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
            "layer_types = .*which a GGUF of qwen2 cannot say",
        ),
        ("gemma2", {"query_pre_attn_scalar": 40}, "query_pre_attn_scalar = 40, and a GGUF of gemma2 can only say 16"),
        ("smollm3", {"no_rope_layers": [1, 0]}, r"no_rope_layers = \[1, 0\], and a GGUF of smollm3 can only say \[1, 1\]"),
        ("qwen3_moe", {"norm_topk_prob": False, "num_experts": 4, "moe_intermediate_size": 32}, "norm_topk_prob = False"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx = True"),
        (
            "granite",
            {"mlp_bias": False, "attn_logit_softcapping": 20.0},
            "attn_logit_softcapping = 20.0, which a GGUF of granite cannot say",
        ),
        ("rwkv", {}, "model_type 'rwkv', for which no GGUF is written; those that are: mixtral, llama"),
    ],
)
def test_what_a_file_cannot_say_is_refused_before_a_weight_is_written(
    kind: str, changes: dict[str, Any], words: str, tmp_path: Path, saved: Saved
) -> None:
    folder = saved(kind, **changes)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **({} if kind == "rwkv" else changes)}))
    with pytest.raises(UnsupportedModel, match=words):
        write_gguf(open_model(folder), tmp_path / "x.gguf", "q8_0")
    assert not list(tmp_path.glob("*.gguf*"))


def test_a_config_without_the_keys_that_have_defaults_is_written_with_transformers_own(tmp_path: Path, tiny_model: Any) -> None:
    """An old config.json names few keys; what it leaves out must be what transformers takes."""
    folder = tmp_path / "m"
    tiny_model("gemma2", head_dim=256, num_key_value_heads=4, sliding_window=4096, query_pre_attn_scalar=256).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    kept = ("model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings")
    (folder / "config.json").write_text(json.dumps({key: config[key] for key in kept}))
    write_gguf(open_model(folder), tmp_path / "x.gguf", "f16")
    found = open_model(tmp_path / "x.gguf").config
    wanted = {
        "head_dim": 256, "num_key_value_heads": 4, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0, "sliding_window": 4096, "tie_word_embeddings": True,
    }  # fmt: skip
    assert {key: found[key] for key in wanted} == wanted


#: config.json as published models have it: old names, keys of no meaning, values of null.
PUBLISHED = {
    "qwen2": {"use_sliding_window": False, "sliding_window": 32768, "max_window_layers": 21, "rope_theta": 1e6, "use_mrope": False},
    "llama": {
        "rope_scaling": {
            "factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
        "rope_theta": 500000.0, "pretraining_tp": 1, "mlp_bias": False, "head_dim": 64,
    },
    "gemma3_text": {
        "sliding_window": 8, "sliding_window_pattern": 3, "rope_local_base_freq": 10000, "rope_theta": 1000000, "rope_scaling": None,
        "query_pre_attn_scalar": 16, "attn_logit_softcapping": None, "cache_implementation": "hybrid",
    },
    "phi3": {"sliding_window": 2047, "original_max_position_embeddings": 512, "rope_scaling": None, "auto_map": {"AutoConfig": "x.y"}},
    "gpt_neox": {"rotary_emb_base": 5000, "rotary_pct": 0.5, "use_parallel_residual": True, "hidden_act": "gelu"},
    "gpt_oss": {
        "rope_scaling": {
            "beta_fast": 32.0, "beta_slow": 1.0, "factor": 32.0, "original_max_position_embeddings": 64, "rope_type": "yarn",
            "truncate": False,
        },
        "initial_context_length": 64, "experts_per_token": 4, "swiglu_limit": 7.0, "num_local_experts": 4, "sliding_window": 8,
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", PUBLISHED)
def test_a_config_in_the_form_of_published_models_is_written(kind: str, tmp_path: Path, saved: Saved) -> None:
    """What transformers makes of the file's config is what it makes of the folder's."""
    from transformers import AutoConfig

    more = {"num_local_experts": 4} if kind == "gpt_oss" else {"num_hidden_layers": 4} if kind == "gemma3_text" else {}
    folder = saved(kind, **more, **({"head_dim": 64} if kind == "llama" else {}))
    config = {key: value for key, value in json.loads((folder / "config.json").read_text()).items() if "rope" not in key}
    config = {key: value for key, value in config.items() if key not in ("layer_types", "_sliding_window_pattern", "sliding_window")}
    (folder / "config.json").write_text(json.dumps(config | PUBLISHED[kind]))
    write_gguf(open_model(folder), tmp_path / "x.gguf", "f16")
    wanted, found = AutoConfig.from_pretrained(folder), AutoConfig.for_model(**open_model(tmp_path / "x.gguf").config)
    # Llama 3's scaling comes back through float32 divisors.
    if kind != "llama":
        assert dict(found.rope_parameters) == dict(wanted.rope_parameters)
    if kind == "gemma3_text":
        assert found.layer_types == wanted.layer_types == [f"{word}_attention" for word in ("sliding", "sliding", "full", "sliding")]


def test_an_expert_that_is_missing_is_named(tmp_path: Path, saved: Saved) -> None:
    from safetensors.numpy import load_file, save_file

    folder = saved("mixtral", num_local_experts=4)
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.block_sparse_moe.experts.2.w1.weight"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"lacks one of the experts beside .*layers\.1\.block_sparse_moe\.experts\.3\.w1"):
        write_gguf(open_model(folder), tmp_path / "x.gguf", "q8_0")


def test_a_tensor_that_the_architecture_has_no_place_for_is_named(tmp_path: Path, saved: Saved) -> None:
    from safetensors.numpy import load_file, save_file

    folder = saved("llama")
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, "model.layers.0.adapter.weight": np.zeros((4, 4), np.float32)}, folder / "model.safetensors")
    with pytest.raises(UnsupportedModel, match=r"'model\.layers\.0\.adapter\.weight', for which a GGUF of llama has no place"):
        write_gguf(open_model(folder), tmp_path / "x.gguf", "q8_0")


def byte_level(pre: Any, *, ignore_merges: bool = False, normalizer: Any = None) -> Tokenizer:
    vocabulary = {SPELLING[byte]: byte for byte in range(256)} | {"ab": 256, "Ġab": 257}
    backend = Tokenizer(BPE(vocab=vocabulary, merges=[("a", "b"), ("Ġ", "ab")], ignore_merges=ignore_merges))
    backend.pre_tokenizer = pre
    if normalizer is not None:
        backend.normalizer = normalizer
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken("<|bos|>", special=True), AddedToken("<|eos|>", special=True)])
    backend.add_tokens([AddedToken("<tool>", special=False, normalized=False)])
    return backend


TEXTS = ("Hello, world 123", "  two\n\nlines 4567", "ab abab <tool>ab", "今天天气很好", "don't I'LL", "")


class TestTokenizer:
    """What is written of a folder's tokenizer gives the same ids when it is read."""

    @pytest.mark.parametrize("pre", ["gpt-2", "llama-bpe", "qwen2", "tekken", "gpt-4o"])
    def test_byte_level(self, pre: str, tmp_path: Path, saved: Saved) -> None:
        folder = saved("llama", bos_token_id=258, eos_token_id=259)
        known = PRE_TOKENIZERS[pre]
        byte_level(known.build(), ignore_merges=known.ignore_merges, normalizer=known.normalizer()).save(str(folder / "tokenizer.json"))
        (folder / "tokenizer_config.json").write_text(
            json.dumps({"bos_token": "<|bos|>", "eos_token": "<|eos|>", "chat_template": "{{ messages[0].content }}"})
        )
        written = write_gguf(open_model(folder), tmp_path / "x.gguf", "q8_0")
        assert (written.tokenizer, written.notes) == ("gpt2", ())
        source, found = open_model(folder), open_model(tmp_path / "x.gguf")
        one, other = source.tokenizer(), found.tokenizer()
        for text in TEXTS:
            assert other.encode(text) == one.encode(text)
            assert other.decode(one.encode(text)) == one.decode(one.encode(text))
        assert (other.bos_token_id, other.eos_token_ids) == (258, frozenset({259}))
        assert [other.is_special(token) for token in (257, 258, 260)] == [False, True, False]
        template = ChatTemplate.of(found)
        assert template is not None
        assert template.source == "{{ messages[0].content }}"

    @pytest.mark.parametrize("name", PRE_TOKENIZERS)
    def test_a_way_of_cutting_is_found_again_under_a_name_that_cuts_alike(self, name: str) -> None:
        known = PRE_TOKENIZERS[name]
        backend = byte_level(known.build(), ignore_merges=known.ignore_merges, normalizer=known.normalizer())
        found = PRE_TOKENIZERS[pre_name(backend, known.ignore_merges, "here")]
        assert (found.nfc, found.ignore_merges) == (known.nfc, known.ignore_merges)
        for text in ("x1 22 333 4444\n\n5", "I'LL don't", "e\u0301té  Ab", "日本 1"):
            assert found.build().pre_tokenize_str(text) == known.build().pre_tokenize_str(text)

    def test_a_way_of_cutting_that_has_no_name_is_refused(self, tmp_path: Path, saved: Saved) -> None:
        folder = saved("llama")
        cut = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex("[aeiou]"), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
        byte_level(cut).save(str(folder / "tokenizer.json"))
        with pytest.raises(UnsupportedModel, match="cuts text before merging in a way that llama"):
            write_gguf(open_model(folder), tmp_path / "x.gguf", "q8_0")

    def test_a_kind_that_has_no_form_is_refused(self, tmp_path: Path, saved: Saved) -> None:
        folder = saved("llama")
        Tokenizer(WordLevel({"a": 0, "b": 1}, unk_token="a")).save(str(folder / "tokenizer.json"))
        with pytest.raises(UnsupportedModel, match="tokenizer of the type WordLevel"):
            write_gguf(open_model(folder), tmp_path / "x.gguf", "q8_0")

    @pytest.mark.parametrize("prefix", [True, False])
    def test_sentencepiece_style(self, prefix: bool, tmp_path: Path, saved: Saved) -> None:
        folder = saved("llama")
        pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b", "ab", "▁ab", "c", "▁c"]
        merges = [("a", "b"), ("▁", "ab"), ("▁", "c")]
        backend = Tokenizer(
            BPE(vocab={p: i for i, p in enumerate(pieces)}, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
        )
        spaces = normalizers.Replace(" ", "▁")
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces]) if prefix else spaces
        steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        backend.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prefix else steps)
        backend.add_special_tokens(["<unk>", "<s>", "</s>"])
        backend.save(str(folder / "tokenizer.json"))
        (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}))
        assert write_gguf(open_model(folder), tmp_path / "x.gguf", "q8_0").tokenizer == "llama"
        one, other = open_model(folder).tokenizer(), open_model(tmp_path / "x.gguf").tokenizer()
        for text in ("ab c", "abab", "c ab xyz", "é"):
            assert other.encode(text, special=False) == one.encode(text, special=False), text
            assert other.decode(one.encode(text, special=False)) == one.decode(one.encode(text, special=False))

    def test_a_checkpoint_without_one_is_written_without_one_and_says_so(self, tmp_path: Path, saved: Saved) -> None:
        written = write_gguf(open_model(saved("llama")), tmp_path / "x.gguf", "q8_0")
        assert written.tokenizer is None
        assert written.notes == ("The checkpoint has no tokenizer, and neither has the file.",)
        assert open_model(tmp_path / "x.gguf").config["eos_token_id"] == 2


class TestHostile:
    """Counts are held against what is there before they are expanded."""

    @pytest.mark.parametrize("layers", [100_000_000, 4000, 3, 1])
    def test_layers_that_are_not_there(self, layers: int, tmp_path: Path, tiny_model: Any, write_gguf: Any) -> None:
        path = write_gguf(tmp_path / "x.gguf", tiny_model("llama"))
        data = path.read_bytes()
        key = b"llama.block_count" + (4).to_bytes(4, "little")
        path.write_bytes(data.replace(key + (2).to_bytes(4, "little"), key + layers.to_bytes(4, "little")))
        with pytest.raises(CheckpointError, match="layers"):
            open_model(path)

    @pytest.mark.parametrize("layers", [100_000_000, 10**30])
    def test_layers_of_a_folder_that_are_not_there(self, layers: int, saved: Saved) -> None:
        folder = saved("llama")
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": layers}))
        with pytest.raises(CheckpointError, match=r"num_hidden_layers = .*, and the checkpoint holds 21 tensors"):
            open_model(folder)

    @pytest.mark.parametrize(
        ("kind", "value"),
        [
            ("gpt_oss", "x"),
            ("gpt_oss", {"rope_type": 5}),
            ("gemma3_text", 1e300),
            *(pytest.param("gemma3_text", value, marks=pytest.mark.long) for value in ("x", {"rope_type": 5})),
            pytest.param("gpt_oss", 1e300, marks=pytest.mark.long),
        ],
    )
    def test_a_value_of_the_wrong_kind_is_one_sentence(self, kind: str, value: Any, tmp_path: Path, saved: Saved) -> None:
        """Each key of a config in turn: what can be written is, what cannot is refused."""
        folder = saved(kind, num_hidden_layers=1, **({"num_local_experts": 2} if kind == "gpt_oss" else {}))
        config = json.loads((folder / "config.json").read_text())
        said = []
        for key in config:
            (folder / "config.json").write_text(json.dumps({**config, key: value}))
            try:
                write_gguf(open_model(folder), tmp_path / "x.gguf", "f32", force=True)
            except LLMasOSError as error:
                said.append(str(error))
        assert len(said) > 8
        assert [text for text in said if not text.endswith(".") or len(text) > 2000] == []

    def test_more_experts_than_any_model_has(self, tmp_path: Path) -> None:
        writer = gguf.GGUFWriter(tmp_path / "x.gguf", "olmoe")
        for key, value in {
            "block_count": 1,
            "embedding_length": 4,
            "feed_forward_length": 4,
            "attention.head_count": 1,
            "vocab_size": 8,
        }.items():
            writer.add_uint32(f"olmoe.{key}", value)
        writer.add_tensor("blk.0.ffn_up_exps.weight", np.zeros((100_000, 1, 4), np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        with pytest.raises(CheckpointError, match="which no stack has"):
            open_model(tmp_path / "x.gguf")

    def test_experts_that_the_metadata_does_not_count(self, tmp_path: Path, saved: Saved) -> None:
        path = write_gguf(open_model(saved("mixtral", num_local_experts=4)), tmp_path / "x.gguf", "q8_0").path
        key = b"llama.expert_count" + (4).to_bytes(4, "little")
        data = path.read_bytes()
        path.write_bytes(data.replace(key + (4).to_bytes(4, "little"), key + (2**31 - 1).to_bytes(4, "little")))
        with pytest.raises(CheckpointError, match=r"holds 4 matrices in .*and its metadata says 2147483647"):
            open_model(path)
