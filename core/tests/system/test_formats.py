"""Installed formats open what core does not read itself, and nothing of theirs passes unchecked."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmasos.checkpoints import storage_notes
from llmasos.compose.formats import formats
from llmasos_config import ComponentConfig
from llmasos_hookspecs import CheckpointError, PluginError, UnsupportedModel, virtual_folder
from llmasos_hookspecs.testing import tiny_checkpoint

from .conftest import Site

FORMAT = """
    import json
    import attrs
    import numpy as np
    from llmasos_hookspecs import CheckpointError, Component, DecoderConfig, hookimpl

    @attrs.frozen
    class Options:
        weights: str = "weights.npz"

    class Npz:
        format = "neutral"
        manifest = {}
        digest = "0" * 64
        chat_template = None

        def __init__(self, path, context, options):
            self.path, self.context = path, context
            self.config = json.loads((path / "config.json").read_text())
            self.decoder = DecoderConfig.from_dict(self.config)
            with np.load(path / options.weights) as found:
                self.tensors = {name: found[name] for name in found.files}

        def names(self): return list(self.tensors)
        def shape(self, name): return self.tensors[name].shape
        def tensor(self, name): return self.tensors[name]
        def tokenizer(self): return self.context.tokenizer(self.path)
        def text_files(self): return {}

    @hookimpl
    def llmasos_component(): return Component(summary="Weights as .npz.", options=Options, files=("*.npz",))

    @hookimpl
    def llmasos_open(path, options, context):
        return Npz(path, context, options) if (path / options.weights).is_file() else None
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder of the format."""
    folder = tmp_path / "model"
    checkpoint = tiny_checkpoint("llama")
    folder.mkdir()
    np.savez(folder / "weights.npz", **checkpoint.tensors)
    (folder / "config.json").write_text(json.dumps(dict(checkpoint.config)))
    for name, data in checkpoint.text_files().items():
        (folder / name).write_bytes(data)
    return folder


def test_an_installed_format_opens_its_model(site: Site, model: Path) -> None:
    """Tensors, config and tokenizer; the arrays cannot be written to, whatever the plugin gave."""
    site.add("llmasos-format-npz", "format", "npz", FORMAT)
    opened = formats(registry=site.registry).open(model)
    expected = tiny_checkpoint("llama")
    assert (opened.format, dict(opened.config)) == ("neutral", dict(expected.config))
    assert opened.decoder == expected.decoder
    for name in expected.names():
        found = opened.tensor(name)
        assert isinstance(found, np.ndarray)
        assert np.array_equal(found, expected.tensors[name])
        assert not found.flags.writeable
    assert opened.tokenizer().encode("ab") == [97, 98]
    assert opened.chat_template is None
    with pytest.raises(CheckpointError, match="holds no tensor 'x'"):
        opened.tensor("x")


def test_core_s_own_formats_import_no_plugin(site: Site, tmp_path: Path) -> None:
    """A Hugging Face folder is core's, even where a format says that it reads everything."""
    module = site.add("llmasos-format-npz", "format", "npz", FORMAT.replace(', files=("*.npz",)', ""))
    tiny_checkpoint("llama", folder=tmp_path / "folder")
    assert formats(registry=site.registry).open(tmp_path / "folder").format == "huggingface"
    assert module not in sys.modules


def test_only_a_format_with_a_fitting_name_is_asked(site: Site, model: Path) -> None:
    """One that reads other files is not, even if it would answer; the one that is named like the suffix comes first."""
    silent = site.add("llmasos-format-silent", "format", "silent", FORMAT.replace('("*.npz",)', '("*.silent",)'))
    greedy = FORMAT.replace('("*.npz",)', '("*.other",)').replace("if (path / options.weights).is_file() else None", "")
    site.add("llmasos-format-a", "format", "a", greedy)
    site.add("llmasos-format-npz", "format", "npz", FORMAT)
    assert formats(registry=site.registry).open(model).names()
    assert silent not in sys.modules
    (model / "x.other").write_text("")
    (model / "weights.npz").rename(model / "kept")
    with pytest.raises(PluginError, match=r'The format "a" \(llmasos-format-a 1.0\) failed in llmasos_open'):
        formats(registry=site.registry).open(model)


def test_config_gives_a_format_options(site: Site, model: Path) -> None:
    """``[formats.NAME]``."""
    site.add("llmasos-format-npz", "format", "npz", FORMAT)
    (model / "weights.npz").rename(model / "other.npz")
    registry = site.registry
    with pytest.raises(CheckpointError, match=r"The installed formats \(gguf, .*npz, .*\) do not read it either"):
        formats(registry=registry).open(model)
    configured = {"npz": ComponentConfig("npz", {"weights": "other.npz"}, "formats.npz")}
    assert formats(configured, registry=registry).open(model).names()


def test_a_broken_format_harms_nobody_but_its_files(site: Site, model: Path) -> None:
    """Another format still opens the model; where none does, the error says what is wrong with the broken one."""
    site.add("llmasos-format-broken", "format", "broken", "raise RuntimeError('no luck')")
    with pytest.raises(CheckpointError, match="RuntimeError: no luck"):
        formats(registry=site.registry).open(model)
    site.add("llmasos-format-npz", "format", "npz", FORMAT)
    assert formats(registry=site.registry).open(model).names()


WRONG: dict[str, tuple[str, str, type[Exception], str, Any]] = {
    "raises in tensor": (
        "def tensor(self, name): return", "def tensor(self, name): raise ZeroDivisionError; return", PluginError,
        r'failed in Checkpoint\.tensor\(\'model\.norm\.weight\'\): ZeroDivisionError', lambda opened: opened.tensor("model.norm.weight"),
    ),
    "gives lists": (
        "return self.tensors[name]\n        def tok", "return self.tensors[name].tolist()\n        def tok", PluginError,
        "gave for Checkpoint.tensor.* a list", lambda opened: opened.tensor("model.norm.weight"),
    ),
    "gives doubles": (
        "return self.tensors[name]\n        def tok", "return self.tensors[name].astype(float)\n        def tok", PluginError,
        "an array of float64", lambda opened: opened.tensor("model.norm.weight"),
    ),
    "gives another shape": (
        "return self.tensors[name]\n        def tok", "return self.tensors[name][:3]\n        def tok", PluginError,
        "the shape .*, and its header says", lambda opened: opened.tensor("model.norm.weight"),
    ),
    "gives NaN": (
        "return self.tensors[name]\n        def tok", "return self.tensors[name] * np.float32('nan')\n        def tok", CheckpointError,
        "NaN or infinity in model.norm.weight", lambda opened: opened.tensor("model.norm.weight"),
    ),
    "has no digest": ('"0" * 64', '"?"', PluginError, "must be a SHA-256", lambda opened: opened.digest),
    "has a template of bytes": ("chat_template = None", 'chat_template = b"x"', PluginError, "must be text or None",
                                lambda opened: opened.chat_template),
    "has no tokenizer": ("return self.context.tokenizer(self.path)", "return 7", PluginError, "which is no Tokenizer",
                         lambda opened: opened.tokenizer()),
    "has files of text": ("return {}", "return {'a': 'b'}", PluginError, "names and bytes", lambda opened: opened.text_files()),
    "has notes that are none": ("manifest = {}", "manifest = {}; notes = (1,)", PluginError, "something other than sentences",
                                lambda opened: opened.notes),
    "returns a number": ("return Npz(path, context, options) if", "return 7 if", PluginError, "without names, shape", None),
    "has names that are none": ("return list(self.tensors)", "return [1]", PluginError, "an int among its names", None),
    "counts layers that are not there": (
        "self.decoder = DecoderConfig.from_dict(self.config)", "self.config['num_hidden_layers'] = 10**9", CheckpointError,
        "num_hidden_layers = 1000000000", None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("defect", WRONG)
def test_a_fault_names_the_plugin(site: Site, model: Path, defect: str) -> None:
    """What a format gives is checked when it is used; an exception becomes one sentence."""
    old, new, error, sentence, use = WRONG[defect]
    assert old in FORMAT
    site.add("llmasos-format-npz", "format", "npz", FORMAT.replace(old, new))
    if use is None:
        with pytest.raises(error, match=sentence):
            formats(registry=site.registry).open(model)
        return
    opened = formats(registry=site.registry).open(model)
    with pytest.raises(error, match=sentence):
        use(opened)


TOKENIZERS = """
    from llmasos_hookspecs import CheckpointError, Component, hookimpl
    from llmasos_hookspecs.testing import ByteTokenizer

    @hookimpl
    def llmasos_component(): return Component(summary="Tokenizers of a text file.", files=("words.txt",))

    @hookimpl
    def llmasos_open(path): return None

    @hookimpl
    def llmasos_read_tokenizer(folder):
        if not (folder / "words.txt").is_file(): return None
        return ByteTokenizer(258)
"""


@pytest.fixture
def with_words(site: Site, model: Path) -> Path:
    """A model of the format npz, whose tokenizer another format reads."""
    site.add("llmasos-format-npz", "format", "npz", FORMAT)
    (model / "tokenizer.json").unlink()
    (model / "words.txt").write_text("")
    return model


def test_any_weights_go_with_any_tokenizer(site: Site, with_words: Path, tmp_path: Path) -> None:
    """Core's own folders, and those of a format, have the tokenizer that another format reads; of a tokenizer.json nobody is asked."""
    module = site.add("llmasos-format-words", "format", "words", TOKENIZERS)
    folder = tmp_path / "folder"
    tiny_checkpoint("llama", folder=folder)
    (folder / "words.txt").write_text("")
    assert formats(registry=site.registry).open(folder).tokenizer().encode("ab")
    assert module not in sys.modules
    (folder / "tokenizer.json").unlink()
    for path in (folder, with_words):
        tokenizer = formats(registry=site.registry).open(path).tokenizer()
        assert (tokenizer.vocab_size, tokenizer.encode("ab")) == (258, [97, 98])


@pytest.mark.parametrize(
    ("answer", "error", "sentence"),
    [
        ("7", PluginError, r'format "words" .* returned an int, which is no Tokenizer, from llmasos_read_tokenizer'),
        ("1 / 0", PluginError, r'The format "words" \(llmasos-format-words 1.0\) failed in llmasos_read_tokenizer'),
        ("None", CheckpointError, "holds no tokenizer.json, and no other tokenizer that is read"),
    ],
)
def test_a_fault_of_a_tokenizer_names_the_plugin(site: Site, with_words: Path, answer: str, error: type[Exception], sentence: str) -> None:
    """And a folder that holds none says so."""
    site.add("llmasos-format-words", "format", "words", TOKENIZERS.replace("ByteTokenizer(258)", answer))
    opened = formats(registry=site.registry).open(with_words)
    with pytest.raises(error, match=sentence):
        opened.tokenizer()


def test_a_format_that_is_broken_is_told_where_a_tokenizer_is_missing(site: Site, with_words: Path) -> None:
    """It may be the one that would read it."""
    site.add("llmasos-format-broken", "format", "broken", "raise RuntimeError('no luck')")
    with pytest.raises(CheckpointError, match=r"save the model's tokenizer into it\. .*RuntimeError: no luck"):
        formats(registry=site.registry).open(with_words).tokenizer()


def test_notes_of_a_checkpoint_reach_the_user(site: Site, model: Path) -> None:
    """What a format says of how weights are stored."""
    site.add("llmasos-format-npz", "format", "npz", FORMAT.replace("manifest = {}", "manifest = {}; notes = ('Rounded.',)"))
    assert storage_notes(formats(registry=site.registry).open(model)) == ("Rounded.",)


def test_a_folder_that_is_not_there_holds_no_tokenizer(tmp_path: Path) -> None:
    """One sentence, for every caller."""
    with pytest.raises(CheckpointError, match=r"none holds no tokenizer\.json, and no other tokenizer that is read"):
        formats().tokenizer(tmp_path / "none")


class Held:
    """A ``FileTree`` of the files of a folder."""

    def __init__(self, folder: Path) -> None:
        self.files = {path.name: path.read_bytes() for path in folder.iterdir()}
        self.sizes = {name: len(data) for name, data in self.files.items()}

    def read(self, name: str, start: int, stop: int) -> np.ndarray:
        return np.frombuffer(self.files[name][start:stop], dtype=np.uint8)

    def sha256(self, name: str) -> str:
        return hashlib.sha256(self.files[name]).hexdigest()

    def pseudonym(self, digest: str) -> str:
        return hashlib.sha256(f"secret {digest}".encode()).hexdigest()


@pytest.mark.parametrize(
    ("ours", "theirs", "sentence"),
    [
        ("np.load(path / options.weights)", 'np.load(__import__("io").BytesIO((path / options.weights).read_bytes()))', None),
        ("", "", "weights.npz is not kept as a plain file"),
        ("np.load(path / options.weights)", "np.load(context.cache / path.name)", '"npz" keeps files that it derives from a model'),
    ],
)
def test_a_format_reads_files_that_are_no_plain_ones(site: Site, model: Path, ours: str, theirs: str, sentence: str | None) -> None:
    """By the methods of its path. A library that opens files itself is refused, and so is a copy of them in the format's cache."""
    site.add("llmasos-format-npz", "format", "npz", FORMAT.replace(ours, theirs) if ours else FORMAT)
    known, folder = formats(registry=site.registry), virtual_folder(model.parent / "virtual", Held(model))
    if sentence is not None:
        with pytest.raises(UnsupportedModel, match=sentence):
            known.open(folder)
        return
    opened = known.open(folder)
    np.testing.assert_array_equal(opened.tensor("model.norm.weight"), known.open(model).tensor("model.norm.weight"))
    assert opened.tokenizer().encode("otter") == known.open(model).tokenizer().encode("otter")
