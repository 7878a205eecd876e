"""Ollama's Modelfile as the tables of a preset (https://docs.ollama.com/modelfile)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import attrs

from llmasos_hookspecs import RequestError
from llmasos_hookspecs.nearest import did_you_mean

_INSTRUCTIONS: Final = ("FROM", "PARAMETER", "SYSTEM", "TEMPLATE", "MESSAGE", "ADAPTER", "LICENSE", "REQUIRES")
_ROLES: Final = ("system", "user", "assistant")
_QUOTES: Final = '"""'


def _tokens(text: str) -> int | str:
    """``num_predict``: a number below 0 asks for as many as there is room for."""
    count = int(text)
    return count if count > 0 else "context"


#: Parameter -> our option, and what its text becomes.
_OPTIONS: Final[Mapping[str, tuple[str, Callable[[str], Any]]]] = {
    "temperature": ("temperature", float),
    "top_k": ("top_k", int),
    "top_p": ("top_p", float),
    "min_p": ("min_p", float),
    "seed": ("seed", int),
    "repeat_penalty": ("repetition_penalty", float),
    "presence_penalty": ("presence_penalty", float),
    "frequency_penalty": ("frequency_penalty", float),
    "num_predict": ("max_new_tokens", _tokens),
}
#: Parameters of the machine, of sampling that is not here, or of Ollama's own engine: the model answers without them.
_LEFT_OUT: Final = (
    *(
        "mirostat",
        "mirostat_eta",
        "mirostat_tau",
        "repeat_last_n",
        "tfs_z",
        "typical_p",
        "penalize_newline",
        "num_keep",
        "draft_num_predict",
    ),
    *("num_gpu", "main_gpu", "num_thread", "num_batch", "numa", "low_vram", "f16_kv", "use_mmap", "use_mlock"),
    *("vocab_only", "logits_all"),
)


@attrs.frozen
class Modelfile:
    """The tables of a preset that a Modelfile describes, and a sentence for each parameter that is left out."""

    tables: Mapping[str, Any]
    notes: tuple[str, ...] = ()


def read_modelfile(text: str, folder: Path, *, own_template: bool = False) -> Modelfile:
    """Read a Modelfile.

    Args:
        text: of the file.
        folder: where a path after FROM begins.
        own_template: a jinja2 template is given beside the file, in place of its TEMPLATE.

    Raises:
        RequestError: a line cannot be read, or asks for what no preset has: an adapter, or a template in Go's language.
    """
    model: dict[str, Any] = {}
    sampling: dict[str, Any] = {}
    messages: list[dict[str, str]] = []
    notes: list[str] = []
    for number, word, value in _instructions(text):
        where = f"Line {number} of the Modelfile"
        if word == "FROM":
            model["source"] = _source(value, folder)
        elif word == "SYSTEM":
            model["system"] = value
        elif word == "MESSAGE":
            role, _, content = value.partition(" ")
            if role not in _ROLES or not content.strip():
                raise RequestError(f"{where} must read MESSAGE {'|'.join(_ROLES)} TEXT.")
            messages.append({"role": role, "content": _unquoted(content.strip())})
        elif word == "PARAMETER":
            notes += _parameter(value, where, model, sampling)
        elif word == "ADAPTER":
            raise RequestError(f"{where} names an ADAPTER, and adapters are not read; merge it into the model's weights first.")
        elif word == "TEMPLATE" and not own_template:
            raise RequestError(
                f"{where} begins a TEMPLATE in Go's language, which is not read; remove it to use the model's own chat template, or give a "
                "jinja2 one with --template FILE."
            )
    if "source" not in model:
        raise RequestError("The Modelfile has no FROM, which names the model that the preset is made from.")
    tables = {**model, **({"messages": messages} if messages else {}), **({"sampling": sampling} if sampling else {})}
    return Modelfile({"model": tables}, tuple(notes))


def _instructions(text: str) -> Iterator[tuple[int, str, str]]:
    """Number of the line, instruction in capitals, and value of each; values in three quotes may have several lines."""
    lines = text.splitlines()
    at = 0
    while at < len(lines):
        number, line = at + 1, lines[at].strip()
        at += 1
        if not line or line.startswith("#"):
            continue
        word, _, value = line.partition(" ")
        if word.upper() not in _INSTRUCTIONS:
            raise RequestError(
                f'Line {number} of the Modelfile begins with "{word}", which is no instruction{did_you_mean(word, _INSTRUCTIONS)}'
            )
        value = value.strip()
        if _QUOTES in value and value.count(_QUOTES) == 1:
            rest = [value]
            while at < len(lines) and _QUOTES not in lines[at]:
                rest.append(lines[at])
                at += 1
            if at == len(lines):
                raise RequestError(f"Line {number} of the Modelfile begins a text in three quotes that never ends.")
            rest.append(lines[at])
            at += 1
            value = "\n".join(rest)
        yield number, word.upper(), _unquoted(value)


def _unquoted(value: str) -> str:
    for quotes in (_QUOTES, '"'):
        if len(value) >= 2 * len(quotes) and value.startswith(quotes) and value.endswith(quotes):
            return value[len(quotes) : -len(quotes)].strip("\n")
    return value


def _source(value: str, folder: Path) -> str:
    """What FROM names: a path, from the Modelfile's folder on, or the name of a model."""
    path = Path(value).expanduser()
    if path.is_absolute() or re.match(r"\.{1,2}[/\\]", value) or (folder / path).exists():
        return str((folder / path).resolve())
    return value


def _parameter(value: str, where: str, model: dict[str, Any], sampling: dict[str, Any]) -> list[str]:
    """Set what a PARAMETER says; returns a note where it is left out."""
    name, _, text = value.partition(" ")
    text = _unquoted(text.strip())
    if name in _LEFT_OUT:
        return [f"{where}: the parameter {name} has no counterpart here and is left out."]
    if name == "stop":
        sampling.setdefault("stop", []).append(text)
        return []
    known = {**_OPTIONS, "num_ctx": ("context_length", int)}
    if name not in known:
        raise RequestError(f'{where} sets "{name}", which is no parameter of a Modelfile{did_you_mean(name, (*known, "stop", *_LEFT_OUT))}')
    option, read = known[name]
    try:
        found = read(text)
    except ValueError:
        raise RequestError(f"{where} sets {name} to {text!r}, and it must be a number.") from None
    (model if name == "num_ctx" else sampling)[option] = found
    return []
