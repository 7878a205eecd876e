"""LLMasOS format ``keras_preset``: the tokenizers of KerasHub presets. Their weights are the loader's."""

from __future__ import annotations

from pathlib import Path

from llmasos_hookspecs import Checkpoint, Component, Tokenizer, hookimpl


@hookimpl
def llmasos_component() -> Component:
    return Component(summary="Tokenizers of KerasHub presets, read without Keras.", files=("tokenizer.json",))


@hookimpl
def llmasos_open() -> Checkpoint | None:
    return None


@hookimpl
def llmasos_read_tokenizer(folder: Path) -> Tokenizer | None:
    from llmasos_backend_tf.preset_tokenizer import tokenizer_from_preset

    return tokenizer_from_preset(folder)
