"""Conformance tests of checkpoint formats."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
import pytest

from llmasos_hookspecs.checkpoint import Checkpoint, Tokenizer
from llmasos_hookspecs.component import NEUTRAL_FORMATS
from llmasos_hookspecs.decoder import DecoderConfig
from llmasos_hookspecs.errors import CheckpointError
from llmasos_hookspecs.formats import Exported
from llmasos_hookspecs.tensors import as_float32
from llmasos_hookspecs.testing.checkpoints import TinyCheckpoint, tiny_checkpoint
from llmasos_hookspecs.testing.plugin import PluginConformance
from llmasos_hookspecs.testing.sandbox import PluginSandbox, SandboxContext, equal_tensors

#: Name -> contents of files that are of no format, or of one that core reads itself.
FOREIGN: Final = {
    "empty.bin": b"",
    "notes.txt": b"Notes, and no model.\n",
    "random.dat": np.random.default_rng(0).bytes(4096),
    "model.gguf": b"GGUF\x03\x00\x00\x00" + bytes(64),
    "model.safetensors": (2).to_bytes(8, "little") + b"{}",
    "model.onnx": b"\x08\x07",
    "config.json": b"{}",
}

_TEXTS: Final = ("Hello, world.", "天气 🙂\n\ttabs", "<|im_start|>user", "")


class FormatConformance(PluginConformance, standard=True):
    """Subclass it, name the plugin, say how a model of the format is made, and pytest proves its reader (and its writer, if it has one)::

        class TestConformance(FormatConformance):
            module = "llmasos_format_mine"

            def make_model(self, checkpoint, folder):
                write_mine(folder / "model.mine", checkpoint)
                return folder / "model.mine"

    A format that exports needs no ``make_model``.

    Attributes:
        lossless: the format keeps float32 tensors as they are; else they may differ by a tenth of their spread.
        has_text: a model of the format holds tokenizer and chat template.
        export_options: values for the options of ``llmasos_export``.
    """

    kind = "format"
    lossless: ClassVar[bool] = True
    has_text: ClassVar[bool] = True
    export_options: ClassVar[dict[str, Any]] = {}

    def make_model(self, checkpoint: TinyCheckpoint, folder: Path) -> Path:
        """Write ``checkpoint`` in the format into the empty ``folder``, and return the path that a user would give."""
        sandbox = self.load_plugin()
        if not sandbox.has("llmasos_export"):
            pytest.fail("Say in make_model how a model of the format is made; the plugin does not export.", pytrace=False)
        output = folder / "model" / self._file_name(sandbox)
        output.parent.mkdir(parents=True)
        self._export(sandbox, SandboxContext(root=folder / "context"), checkpoint, output)
        return output

    @pytest.fixture
    def original(self) -> TinyCheckpoint:
        """The model that ``path`` holds."""
        return tiny_checkpoint("llama", seed=7)

    @pytest.fixture
    def path(self, original: TinyCheckpoint, tmp_path: Path) -> Path:
        """That model in the format."""
        folder = tmp_path / "of-the-format"
        folder.mkdir()
        return self.make_model(original, folder)

    @pytest.fixture
    def opened(self, sandbox: PluginSandbox, context: SandboxContext, original: TinyCheckpoint, path: Path) -> Checkpoint:
        """What the format opens it as."""
        found = self.open(sandbox, context, original, path)
        assert found is not None, f"The format does not open {path.name}, which make_model wrote."
        return found

    def open(self, sandbox: PluginSandbox, context: SandboxContext, original: TinyCheckpoint, path: Path) -> Checkpoint | None:
        """Call ``llmasos_open`` as core does."""
        context.vocab_size = int(original.config["vocab_size"])
        found: Checkpoint | None = sandbox.call("llmasos_open", path=path, options=self.plugin_options(sandbox), context=context)
        return found

    @pytest.mark.parametrize("name", FOREIGN)
    def test_leaves_other_files_alone(self, sandbox: PluginSandbox, context: SandboxContext, tmp_path: Path, name: str) -> None:
        """A file of another format, and a folder that holds it, are answered with None. Only what has one of the format's own names may be
        called damaged."""
        folder = tmp_path / "foreign"
        folder.mkdir()
        file = folder / name
        file.write_bytes(FOREIGN[name])
        files = sandbox.component.files
        own = bool(files) and any(fnmatchcase(name, pattern) for pattern in files)
        for path in (file, folder):
            refused = False
            try:
                found = sandbox.call("llmasos_open", path=path, options=self.plugin_options(sandbox), context=context)
            except CheckpointError:
                found, refused = None, True
            assert found is None, f"The format opened {name}, which is no model of any format."
            assert own or not refused, f"The format refused {name}, which is not its own; return None."

    def test_leaves_other_models_alone(self, sandbox: PluginSandbox, context: SandboxContext, tmp_path: Path) -> None:
        """A Hugging Face folder and an empty folder are answered with None."""
        tiny_checkpoint("llama", folder=tmp_path / "huggingface")
        (tmp_path / "empty").mkdir()
        for name in ("huggingface", "empty"):
            assert sandbox.call("llmasos_open", path=tmp_path / name, options=self.plugin_options(sandbox), context=context) is None, (
                f"The format opened a folder that is not its own ({name})."
            )

    def test_leaves_other_tokenizers_alone(self, sandbox: PluginSandbox, context: SandboxContext, tmp_path: Path) -> None:
        """Of a folder without a tokenizer, a format that reads tokenizers gives None."""
        if sandbox.has("llmasos_read_tokenizer"):
            (tmp_path / "config.json").write_text("{}", encoding="utf-8")
            options = self.plugin_options(sandbox)
            found = sandbox.call("llmasos_read_tokenizer", folder=tmp_path, options=options, context=context)
            assert found is None, "The format read a tokenizer in a folder that holds none."

    def test_core_would_ask_it(self, sandbox: PluginSandbox, path: Path) -> None:
        """The model has a name that ``Component.files`` lists; core asks about no other."""
        files = sandbox.component.files
        assert all(pattern == pattern.lower() and "/" not in pattern for pattern in files), (
            f"Component.files is {files!r}; patterns are of file names, in lower case."
        )
        names = [path.name] if path.is_file() else [each.name for each in path.iterdir() if each.is_file()]
        assert not files or any(fnmatchcase(name.lower(), pattern) for name in names for pattern in files), (
            f"No name of {', '.join(names)} fits Component.files, {files!r}, so that core would not ask the format."
        )

    def test_opens_what_was_written(self, opened: Checkpoint, original: TinyCheckpoint, path: Path) -> None:
        """The checkpoint has the model's config, names, shapes and tensors."""
        assert isinstance(opened, Checkpoint), "What llmasos_open returned lacks a part of Checkpoint."
        assert opened.path in (path, *path.parents, *path.rglob("*"))
        assert opened.format in NEUTRAL_FORMATS, f"The format is {opened.format!r}; a checkpoint with named tensors is 'neutral'."
        assert isinstance(opened.manifest, dict)
        assert opened.decoder == DecoderConfig.from_dict(opened.config)
        ours, theirs = original.decoder, opened.decoder
        for key in ("num_layers", "hidden_size", "num_heads", "num_kv_heads", "vocab_size", "context_length"):
            assert getattr(theirs, key) == getattr(ours, key), f"decoder.{key} is {getattr(theirs, key)!r}."
        assert set(opened.names()) == set(original.names())
        for name in original.names():
            tensor, expected = opened.tensor(name), original.tensor(name)
            assert opened.shape(name) == original.shape(name) == tuple(as_float32(tensor).shape), name
            if self.lossless:
                assert equal_tensors(tensor, expected), f"{name} differs from what was written."
            else:
                error = np.abs(as_float32(tensor) - as_float32(expected)).max()
                assert error <= 0.1 * max(float(np.std(as_float32(expected))), 1e-6), f"{name} differs by {error:g}."

    def test_has_the_text_side(self, opened: Checkpoint, original: TinyCheckpoint, tmp_path: Path) -> None:
        """Tokenizer, chat template, and the files to write beside changed weights; or neither."""
        if not self.has_text:
            with pytest.raises(CheckpointError):
                opened.tokenizer()
            assert opened.chat_template is None
            return
        tokenizer, expected = opened.tokenizer(), original.tokenizer()
        assert isinstance(tokenizer, Tokenizer), "tokenizer() gave something that is no Tokenizer."
        for text in _TEXTS:
            assert tokenizer.encode(text) == expected.encode(text), f"{text!r} is encoded otherwise."
            assert tokenizer.decode(tokenizer.encode(text)) == expected.decode(expected.encode(text))
        assert tokenizer.eos_token_ids >= {257}
        assert tokenizer.special_tokens.get("bos_token") == expected.special_tokens["bos_token"]
        assert opened.chat_template == original.chat_template
        files = opened.text_files()
        assert "tokenizer_config.json" in files, "text_files() lacks tokenizer_config.json."
        assert "tokenizer.json" in files or "tokenizer.model" in files, "text_files() has no tokenizer."
        assert json.loads(files["tokenizer_config.json"]).get("chat_template") == original.chat_template or "chat_template.jinja" in files

    def test_a_tensor_is_not_shared(self, opened: Checkpoint, original: TinyCheckpoint) -> None:
        """Writing to an array that was read fails, or changes nothing for the next reader."""
        name = original.names()[-1]
        first = opened.tensor(name)
        kept = as_float32(first).copy()
        if isinstance(first, np.ndarray):
            with contextlib.suppress(ValueError):
                first[...] = 0
        assert np.array_equal(as_float32(opened.tensor(name)), kept)

    def test_an_unknown_name_is_refused(self, opened: Checkpoint) -> None:
        """A tensor that is not there is a ``CheckpointError``."""
        with pytest.raises(CheckpointError):
            opened.tensor("model.no_such.weight")

    def test_the_digest_tells_contents(
        self, sandbox: PluginSandbox, context: SandboxContext, original: TinyCheckpoint, opened: Checkpoint, path: Path, tmp_path: Path
    ) -> None:
        """It is a SHA-256, the same for a copy elsewhere, and another where a weight or the config differs."""
        digest = opened.digest
        assert len(digest) == 64, f"The digest is {digest!r}, and it must be a SHA-256 in hexadecimal."
        assert set(digest) <= set("0123456789abcdef")
        top = tmp_path / "of-the-format"
        shutil.copytree(top, tmp_path / "copy")
        copy = self.open(sandbox, context, original, tmp_path / "copy" / path.relative_to(top))
        assert copy is not None
        assert copy.digest == digest, "A copy has another digest."
        changed = {
            "a weight": tiny_checkpoint("llama", seed=8),
            "the config": tiny_checkpoint("llama", seed=7, rms_norm_eps=0.001),
        }
        for what, other in changed.items():
            folder = tmp_path / what.replace(" ", "-")
            folder.mkdir()
            found = self.open(sandbox, context, other, self.make_model(other, folder))
            assert found is not None
            assert found.digest != digest, f"A model that differs in {what} has the same digest."

    @pytest.mark.parametrize("how", ["cut", "zeroed", "flipped", "doubled"])
    def test_damage_is_a_checkpoint_error(
        self, sandbox: PluginSandbox, context: SandboxContext, original: TinyCheckpoint, path: Path, how: str
    ) -> None:
        """A damaged file is read all the same or refused with a ``CheckpointError``, never with another exception, and no tensor has
        another shape than its header says."""
        files = sorted(file for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())
        for file in files:
            data = file.read_bytes()
            for damaged in _damaged(data, how):
                file.write_bytes(damaged)
                self._read_all(lambda: self.open(sandbox, context, original, path), f"{file.name} {how}")
            file.write_bytes(data)

    def _read_all(self, opening: Callable[[], Checkpoint | None], what: str) -> None:
        try:
            found = opening()
            shapes = {} if found is None else {name: (found.shape(name), as_float32(found.tensor(name)).shape) for name in found.names()}
            if found is not None:
                _ = (found.digest, found.decoder, found.chat_template, found.text_files(), found.tokenizer())
        except CheckpointError:
            return
        except Exception as error:
            raise AssertionError(f"{what}: {type(error).__name__}, and it must be a CheckpointError: {error}") from error
        for name, (said, read) in shapes.items():
            assert tuple(read) == tuple(said), f"{what}: {name} has the shape {read} and its header says {said}."

    def test_exports_what_it_reads(self, sandbox: PluginSandbox, context: SandboxContext, original: TinyCheckpoint, tmp_path: Path) -> None:
        """An export writes its output and nothing else, leaves the checkpoint as it was, and is opened again."""
        if not sandbox.has("llmasos_export"):
            assert sandbox.component.exports is None, "Component.exports is set, and llmasos_export is missing."
            pytest.skip("The format does not export.")
        assert sandbox.component.exports is not None, "llmasos_export is there; set Component.exports to the class of its options."
        folder = tmp_path / "exported"
        folder.mkdir()
        before = original.digest
        output = folder / self._file_name(sandbox)
        result = self._export(sandbox, context, original, output)
        assert isinstance(result, Exported)
        json.dumps(dict(result.facts), allow_nan=False)
        assert [each.name for each in folder.iterdir()] == [output.name], "The export wrote more than its output."
        assert original.digest == before
        found = self.open(sandbox, context, original, output)
        assert found is not None
        assert set(found.names()) == set(original.names())

    def _export(self, sandbox: PluginSandbox, context: SandboxContext, checkpoint: Checkpoint, output: Path) -> Any:
        assert sandbox.component.exports is not None, "llmasos_export is there; set Component.exports to the class of its options."
        options = sandbox.component.exports(**self.export_options)
        return sandbox.call("llmasos_export", checkpoint=checkpoint, output=output, options=options, context=context)

    def _file_name(self, sandbox: PluginSandbox) -> str:
        """A name that the format reads."""
        for pattern in sandbox.component.files:
            if pattern.startswith("*."):
                return f"model{pattern[1:]}"
        return "model"


def _damaged(data: bytes, how: str) -> Iterator[bytes]:
    """Variants of a file."""
    rng = np.random.default_rng(0)
    places = sorted({0, 1, 4, 9, len(data) // 3, len(data) // 2, max(0, len(data) - 1)})
    if how == "cut":
        yield from (data[:place] for place in places)
    elif how == "zeroed":
        yield from (data[:place] + bytes(min(16, len(data) - place)) + data[place + 16 :] for place in places)
    elif how == "doubled":
        yield data + data
    else:
        for place in rng.integers(0, max(1, min(len(data), 2048)), 12):
            yield data[:place] + bytes([data[place] ^ 0x41]) + data[place + 1 :] if data else b"A"
