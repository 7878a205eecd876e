"""SentencePiece models of every kind, in every file that holds them, against the SentencePiece library on hundreds of strings."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from transformers import LlamaConfig, LlamaForCausalLM

from llmasos.compose.formats import formats, open_model
from llmasos_format_gguf.checkpoint import GGUFCheckpoint
from llmasos_format_gguf.write import write_gguf
from llmasos_hookspecs import CheckpointError, UnsupportedModel
from llmasos_huggingface_folder.text_files import write_text_files
from llmasos_tokenizing.sentencepiece import SentencePieceTokenizer, Whole, whole_tokens
from llmasos_tokenizing.sentencepiece_file import read_sentencepiece, sentencepiece_bytes
from llmasos_tokenizing.sentencepiece_model import SentencePieceModel

from .conftest import Trained
from .sentencepiece_models import plain, same, train

MODELS = [
    {
        "model_type": kind,
        "byte_fallback": fallback,
        "add_dummy_prefix": prefix,
        "remove_extra_whitespaces": squeeze,
        "normalization_rule_name": rule,
    }
    for kind, fallback, prefix, squeeze, rule in itertools.product(
        ("bpe", "unigram"), (True, False), (True, False), (True, False), ("identity", "nmt_nfkc")
    )
    if fallback or (prefix and squeeze) == (rule == "nmt_nfkc")
]


#: On each change each switch on and off in both kinds: those with an even number of them on, and none twice.
WIDE = [
    options if (options["add_dummy_prefix"] + options["remove_extra_whitespaces"] + (options["normalization_rule_name"] == "identity")) % 2
    else pytest.param(options, marks=pytest.mark.long)
    for options in MODELS
]  # fmt: skip


def names(options: dict[str, Any]) -> str:
    flags = ("byte_fallback", "add_dummy_prefix", "remove_extra_whitespaces")
    return "-".join([options["model_type"], *(flag for flag in flags if options[flag]), options["normalization_rule_name"]])


@pytest.mark.parametrize("options", WIDE, ids=names)
def test_a_model_file_gives_the_librarys_tokens(options: dict[str, Any], tmp_path: Path, strings: list[str]) -> None:
    (tmp_path / "tokenizer.model").write_bytes(train(**options))
    tokenizer = SentencePieceTokenizer(read_sentencepiece(tmp_path / "tokenizer.model"), named={}, eos_token_ids=frozenset())
    same(tokenizer, sentencepiece.SentencePieceProcessor(model_proto=train(**options)), strings)


@pytest.mark.parametrize("options", WIDE, ids=names)
def test_a_gguf_file_gives_the_librarys_tokens(options: dict[str, Any], write_tokenizer: Any, tmp_path: Path, strings: list[str]) -> None:
    """With the metadata that llama.cpp's converter writes: rules for characters and about spaces stand in it where there are any."""
    data = train(**options)
    (tmp_path / "tokenizer.model").write_bytes(data)
    model = read_sentencepiece(tmp_path / "tokenizer.model")
    library = sentencepiece.SentencePieceProcessor(model_proto=data)
    flags: dict[str, Any] = {"add_add_bos_token": False, "add_add_eos_token": False}
    if not options["add_dummy_prefix"] or options["model_type"] == "unigram":
        flags["add_add_space_prefix"] = options["add_dummy_prefix"]
    if options["remove_extra_whitespaces"]:
        flags["add_remove_extra_whitespaces"] = True
    if model.charsmap:
        flags["add_precompiled_charsmap"] = model.charsmap
    trained = Trained(library, model.pieces, [], model.kinds, model.scores)
    path = write_tokenizer(trained, {"bpe": "llama", "unigram": "t5"}[options["model_type"]], pre="default", merges=False, **flags)
    same(GGUFCheckpoint(path).tokenizer(), library, plain(strings))


@pytest.mark.parametrize("options", [options for options in MODELS if options["model_type"] == "unigram"][::3], ids=names)
def test_a_unigram_model_is_written_to_gguf_with_its_form_of_text(options: dict[str, Any], tmp_path: Path, strings: list[str]) -> None:
    """Of a folder whose embedding has more rows than the model has pieces; what is read of the file gives the folder's tokens."""
    library = sentencepiece.SentencePieceProcessor(model_proto=train(**options))
    folder = tmp_path / "model"
    sizes = {"vocab_size": library.get_piece_size() + 8, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 32}
    config = LlamaConfig(**sizes, num_hidden_layers=1, bos_token_id=1, eos_token_id=2, tie_word_embeddings=True)
    LlamaForCausalLM(config).save_pretrained(folder)
    (folder / "tokenizer.model").write_bytes(train(**options))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "LlamaTokenizer", "legacy": True, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"})
    )
    source = open_model(folder)
    written = write_gguf(source, tmp_path / "x.gguf", "f32")
    assert written.tokenizer == "t5"
    found = open_model(written.path).tokenizer()
    for special in (False, True):
        assert [found.encode(text, special=special) for text in plain(strings)] == [
            source.tokenizer().encode(text, special=special) for text in plain(strings)
        ]


@pytest.mark.parametrize("options", [MODELS[0], MODELS[1], MODELS[6], MODELS[12], MODELS[-1]], ids=names)
def test_what_is_written_of_a_gguf_file_gives_the_same_tokens(
    options: dict[str, Any], write_tokenizer: Any, tmp_path: Path, strings: list[str]
) -> None:
    """As tokenizer.model, where no tokenizer.json says the same, which is all but some BPE models; the library itself reads it."""
    (tmp_path / "tokenizer.model").write_bytes(train(**options))
    model = read_sentencepiece(tmp_path / "tokenizer.model")
    flags: dict[str, Any] = {"add_add_space_prefix": model.prefix, "add_remove_extra_whitespaces": model.squeeze}
    if model.charsmap:
        flags["add_precompiled_charsmap"] = model.charsmap
    kind = "llama" if model.is_bpe else "t5"
    base = GGUFCheckpoint(write_tokenizer(Trained(model, model.pieces, [], model.kinds, model.scores), kind, merges=False, **flags))
    folder = tmp_path / "written"
    folder.mkdir()
    write_text_files(base, folder)
    found = formats().tokenizer(folder)
    assert [found.encode(text) for text in strings] == [base.tokenizer().encode(text) for text in strings]
    assert (found.vocab_size, found.eos_token_ids) == (base.tokenizer().vocab_size, base.tokenizer().eos_token_ids)
    if (folder / "tokenizer.model").is_file():
        library = sentencepiece.SentencePieceProcessor(model_proto=(folder / "tokenizer.model").read_bytes())
        texts = plain(strings)
        assert library.encode(texts) == [found.encode(text, special=False) for text in texts]
    else:
        assert model.is_bpe
        assert not model.prefix


@pytest.mark.parametrize("user_defined", ["e x", "e▁x", "<s", "s>"])
def test_user_defined_pieces_that_a_tokenizer_json_finds_otherwise_are_written_as_a_model(
    user_defined: str, write_tokenizer: Any, tmp_path: Path
) -> None:
    """SentencePiece looks for them in a text whose spaces are replaced, and after its BOS; tokenizer.json in the text as it is."""
    pieces = ["<unk>", "<s>", "</s>", *"▁eVWExa'<s>", "▁x", user_defined]
    kinds = [2, 3, 3, *[1] * (len(pieces) - 4), 4]
    scores = [-float(place) for place in range(len(pieces))]
    model = SentencePieceModel(pieces, scores, kinds, is_bpe=True, prefix=False, squeeze=False)
    path = write_tokenizer(Trained(model, pieces, [], kinds, scores), "llama", merges=False, add_add_space_prefix=False)
    base, folder = GGUFCheckpoint(path), tmp_path / "written"
    folder.mkdir()
    write_text_files(base, folder)
    assert (folder / "tokenizer.model").is_file()
    assert not (folder / "tokenizer.json").exists()
    texts = ["▁WE'Ve x", "e x", "e▁x", "ae xa", "<s>", "a<s>a", "<s"]
    found = formats().tokenizer(folder)
    assert [found.encode(text) for text in texts] == [base.tokenizer().encode(text) for text in texts]
    library = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_bytes(model))
    plain_texts = plain(texts)
    assert [found.encode(text, special=False) for text in plain_texts] == library.encode(plain_texts)


def test_the_space_before_a_text_comes_whatever_it_begins_with(write_tokenizer: Any, tmp_path: Path) -> None:
    """Before a text that begins with a space too, and after a control token; not after a user-defined piece, which is text."""
    (tmp_path / "tokenizer.model").write_bytes(data := train(model_type="bpe", byte_fallback=True, remove_extra_whitespaces=False))
    model = read_sentencepiece(tmp_path / "tokenizer.model")
    path = write_tokenizer(Trained(data, model.pieces, [], model.kinds, model.scores), "llama", merges=False)
    tokenizer = GGUFCheckpoint(path).tokenizer()

    def spelt(text: str) -> list[str]:
        return [model.pieces[token] for token in tokenizer.encode(text)]

    library = sentencepiece.SentencePieceProcessor(model_proto=data)
    assert spelt(" Hello") == ["<s>", *library.encode(" Hello", out_type=str)]
    assert spelt("<s>G") == ["<s>", "<s>", *library.encode("G", out_type=str)]
    assert spelt("<s>G")[-2:] in (["<s>", "▁G"], ["▁", "G"])
    assert spelt("<think>G") == ["<s>", "▁", "<think>", "G"]
    assert tokenizer.decode(tokenizer.encode(" Hello")) == " Hello"


def test_control_tokens_are_found_whole_and_others_where_their_white_space_says_so(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(train(model_type="bpe", byte_fallback=True))
    model = read_sentencepiece(tmp_path / "tokenizer.model")
    tokens = [*whole_tokens(model), Whole("<mark>", special=False, lstrip=True), Whole("<end>", rstrip=True)]
    tokenizer = SentencePieceTokenizer(model, whole=tokens, bos="<s>", eos="</s>", prefix_each=False, named={}, eos_token_ids=frozenset())
    mark, end = tokenizer.backend.token_to_id("<mark>"), tokenizer.backend.token_to_id("<end>")
    assert tokenizer.encode("<end>  <mark>") == [1, end, mark, 2]
    assert tokenizer.encode("</s>", special=False) == [2]
    assert tokenizer.decode([mark, end], skip_special=True) == "<mark>"
    a, ab = tokenizer.encode("a", special=False), tokenizer.encode("<end> a", special=False)
    assert ab[1:] != a  # no space before it


def test_bytes_that_are_no_text_cost_only_themselves(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(train(model_type="bpe", byte_fallback=True))
    tokenizer = SentencePieceTokenizer(read_sentencepiece(tmp_path / "tokenizer.model"), named={}, eos_token_ids=frozenset())
    byte = {value: tokenizer.backend.token_to_id(f"<0x{value:02X}>") for value in range(256)}
    assert tokenizer.decode([byte[value] for value in "你".encode()] + [byte[0xFF]]) == "你\ufffd"


@pytest.mark.parametrize(
    ("data", "kind", "words"),
    [
        (b"", CheckpointError, "no pieces"),
        (b"\x0a\xff", CheckpointError, "damaged"),
        (b"IQ== 0\nIg== 1\n", CheckpointError, "is no SentencePiece model"),
    ],
)
def test_a_damaged_file_is_one_clear_sentence(data: bytes, kind: type[Exception], words: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(data)
    with pytest.raises(kind, match=words):
        read_sentencepiece(tmp_path / "tokenizer.model")


@pytest.mark.parametrize(
    "options", [{"model_type": "word"}, {"model_type": "char"}, {"model_type": "bpe", "treat_whitespace_as_suffix": True}]
)
def test_kinds_that_no_language_model_uses_are_refused(options: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(train(**options, vocab_size=200))
    with pytest.raises(UnsupportedModel, match="BPE and unigram are read"):
        read_sentencepiece(tmp_path / "tokenizer.model")


def test_an_empty_piece_is_never_found(tmp_path: Path) -> None:
    """Neither a user-defined nor a control one: a damaged file must not keep the tokenizer where it stands."""
    model = SentencePieceModel(["<unk>", "", "a", "▁", "b"], [0.0] * 5, [2, 4, 1, 1, 1], is_bpe=True, prefix=True, squeeze=False)
    tokenizer = SentencePieceTokenizer(model, whole=[Whole("")], named={}, eos_token_ids=frozenset())
    assert tokenizer.encode("ab a") == [3, 2, 4, 3, 2]


@pytest.mark.skipif(sys.platform != "linux", reason="limits an address space")
def test_rules_for_characters_take_no_memory_that_they_only_claim() -> None:
    """The tokenizers library would take it, and abort the process that has not so much."""
    code = """
        import resource
        from pathlib import Path
        from llmasos_tokenizing.sentencepiece import SentencePieceTokenizer
        from llmasos_tokenizing.sentencepiece_model import SentencePieceModel

        form = {"is_bpe": False, "prefix": False, "squeeze": False, "charsmap": bytes([252] * 40)}
        model = SentencePieceModel(["<unk>", "a"], [0.0, 0.0], [2, 1], **form)
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + (1 << 30), taken + (1 << 30)))
        try:
            SentencePieceTokenizer(model, named={}, eos_token_ids=frozenset())
        except ValueError as error:
            print(error)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == "the rules for characters are cut off\n"


@pytest.mark.parametrize("damage", [b"\x01", b"\xff\xff\xff\xff"])
def test_damaged_rules_for_characters_end_in_one_sentence(damage: bytes, write_tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(train(model_type="unigram"))
    model = read_sentencepiece(tmp_path / "tokenizer.model")
    assert len(model.charsmap) > 100_000
    for charsmap in (damage, model.charsmap[: len(model.charsmap) // 2]):
        trained = Trained(model, model.pieces, [], model.kinds, model.scores)
        path = write_tokenizer(trained, "t5", merges=False, add_precompiled_charsmap=charsmap)
        with pytest.raises(CheckpointError, match="parts do not fit"):
            GGUFCheckpoint(path).tokenizer()
