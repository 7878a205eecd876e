"""Checks what hooks return against the contract, before it is used; a fault is the end of a sentence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import attrs

from llmasos_hookspecs import (
    RESERVED_INPUTS,
    STAGES,
    AccelerationResult,
    EncoderInfo,
    Endpoint,
    EngineInfo,
    Exported,
    MemoryEstimate,
    Section,
    Tokenizer,
)
from llmasos_hookspecs.guarding.edge import kind_of

#: What each of these objects must be able to do.
_ENGINE: Final = ("open", "step", "truncate", "fork", "close", "shutdown")
_CHECKPOINT: Final = ("names", "shape", "tensor", "tokenizer", "text_files")
_POLICY: Final = ("admit", "rank", "victim", "quantum", "on_commit")


def fault_of(hook: str, value: Any) -> str:
    """What is wrong with ``value`` as the answer of ``hook``; empty where nothing is. May raise whatever looking at it raises."""
    check = _CHECKS.get(hook)
    return "" if check is None else check(value)


def _loaded(value: Any) -> str:
    return _encoder(value) if isinstance(getattr(value, "info", None), EncoderInfo) else _engine(value)


def _encoder(value: Any) -> str:
    if missing := _missing(value, ("encode", "shutdown")):
        return missing
    info = value.info
    if fault := _low(info, {"dimensions": 1, "context_length": 1, "vocab_size": 1, "weight_bytes": 0, "batch_bytes": 0}, "an encoder"):
        return fault
    if fault := _low(info, {"max_batch_tokens": info.context_length}, "an encoder"):
        return fault
    if not info.features & {"embed", "rank"}:
        return f"an encoder whose info.features are {sorted(info.features)!r:.60}, and embed or rank must be among them"
    return ""


def _engine(value: Any) -> str:
    if missing := _missing(value, _ENGINE):
        return missing
    info = value.info
    if not isinstance(info, EngineInfo):
        return f"an engine whose info is {kind_of(info)} and no EngineInfo"
    least = {
        "vocab_size": 1,
        "context_length": 1,
        "max_sequences": 1,
        "weight_bytes": 0,
        "kv_bytes_per_token": 0,
        "media_bytes": 0,
        "source_length": int("source" in info.features),
    }
    if fault := _low(info, least, "an engine"):
        return fault
    if info.source_length >= info.context_length:
        return (
            f"an engine whose info.source_length is {info.source_length}, and a context of {info.context_length} has no room for a target"
        )
    if fault := _media_tokens(info):
        return fault
    takes_media = not info.features.isdisjoint({"media", "source"})
    return _missing(value, ("media_length",)) if takes_media else ""


def _media_tokens(info: EngineInfo) -> str:
    found = info.media_tokens
    if not isinstance(found, Mapping) or not all(
        isinstance(kind, str) and isinstance(token, int) and 0 <= token < info.vocab_size for kind, token in found.items()
    ):
        return f"an engine whose info.media_tokens is {found!r:.60}, and it must name a token of the vocabulary for each kind of media"
    if found and "media" not in info.features:
        return 'an engine whose info.media_tokens names tokens of media, and "media" is none of its info.features'
    return ""


def _low(info: EngineInfo | EncoderInfo, least: Mapping[str, int], what: str) -> str:
    for name, low in least.items():
        number = getattr(info, name)
        if isinstance(number, bool) or not isinstance(number, int) or number < low:
            return f"{what} whose info.{name} is {number!r:.40}, and it must be a whole number of at least {low}"
    return ""


def _placement(value: Any) -> str:
    return _missing(value, ("hosts", "start", "close"))


def _guard(value: Any) -> str:
    if missing := _missing(value, ("check",)):
        return missing
    stages = value.stages
    if isinstance(stages, str) or not stages or not set(stages) <= set(STAGES):
        return f"a guard whose stages are {stages!r:.60}, and they must be some of {', '.join(STAGES)}"
    opened = getattr(value, "open", None)
    if opened is None:
        return ""
    if not callable(opened) or isinstance(value.hold, bool) or not isinstance(value.hold, int) or value.hold < 0:
        return "a guard that streams whose hold is no whole number of characters, or whose open cannot be called"
    return ""


def _transcriber(value: Any) -> str:
    return _missing(value, ("open",)) or _sounding(value)


def _speaker(value: Any) -> str:
    return _missing(value, ("speak",)) or _sounding(value)


def _sounding(value: Any) -> str:
    """Of what takes or makes sound."""
    rate = value.sample_rate
    if isinstance(rate, bool) or not isinstance(rate, int) or rate < 1:
        return f"{kind_of(value)} whose sample_rate is {rate!r:.40}, and it must be a whole number of samples a second"
    languages = value.languages
    if not isinstance(languages, tuple) or not all(isinstance(each, str) for each in languages):
        return f"{kind_of(value)} whose languages are {languages!r:.60}, and they must be a tuple of codes"
    return ""


def _server(value: Any) -> str:
    if missing := _missing(value, ("start", "drain", "stop")):
        return missing
    endpoints = list(value.endpoints)
    return "" if endpoints and all(isinstance(each, Endpoint) for each in endpoints) else "a server that names no Endpoint"


def _access(value: Any) -> str:
    return _missing(value, ("authenticate", "allows", "reserve", "audit"))


def _policy(value: Any) -> str:
    return _missing(value, _POLICY)


def _task(value: Any) -> str:
    if missing := _missing(value, ("run",)):
        return missing
    for name in ("inputs", "output"):
        found = getattr(value, name, None)
        if not isinstance(found, type) or not attrs.has(found):
            return f"a task whose {name} is no attrs class"
    taken = [field.alias for field in attrs.fields(value.inputs) if field.alias in RESERVED_INPUTS]
    if taken:
        return f"a task with the input {taken[0]}, which is a name of an argument of the task verb or of model.run,"
    for name in ("stream", "events"):
        found = getattr(value, name, None)
        if found is not None and not callable(found):
            return f"a task whose {name} cannot be called"
    return ""


def _estimate(value: Any) -> str:
    return "" if value is None or isinstance(value, MemoryEstimate) else f"{kind_of(value)} and no MemoryEstimate"


def _result(value: Any) -> str:
    if not isinstance(value, AccelerationResult):
        return f"{kind_of(value)} and no AccelerationResult"
    if not all(isinstance(each, str) for each in (*value.touched, *value.skipped, *value.skipped.values())):
        return "an AccelerationResult whose touched and skipped are no names and reasons"
    notes = value.report.get("notes", ())
    if not isinstance(notes, str) and not all(isinstance(note, str) for note in notes):
        return f"a report whose notes are {notes!r:.60}, and they must be sentences"
    curves = value.report.get("curves", {})
    try:
        for title, lines in curves.items():
            Section(title=title, lines=lines)
    except (AttributeError, TypeError) as error:
        return f"a report whose curves cannot be drawn ({error})"
    return ""


def _path(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, Path):
        return f"{kind_of(value)} and no Path"
    return "" if value.is_dir() or value.is_file() else f"{value}, which is no path there,"


def _checkpoint(value: Any) -> str:
    return "" if value is None else _missing(value, _CHECKPOINT)


def _tokenizer(value: Any) -> str:
    return "" if value is None or isinstance(value, Tokenizer) else f"{kind_of(value)}, which is no Tokenizer,"


def _suite(value: Any) -> str:
    if missing := _missing(value, ("measure",)):
        return missing
    wrong = [name for name in ("sections", "notes", "page") if not callable(getattr(value, name, _suite))]
    return f"a suite whose {wrong[0]} cannot be called" if wrong else ""


def _command(value: Any) -> str:
    return _missing(value, ("main",))


def _exported(value: Any) -> str:
    return "" if isinstance(value, Exported) else f"{kind_of(value)} and no Exported"


def _missing(value: Any, methods: tuple[str, ...]) -> str:
    missing = [name for name in methods if not callable(getattr(value, name, None))]
    return f"{kind_of(value)} without {', '.join(missing)}" if missing else ""


_CHECKS: Final[Mapping[str, Callable[[Any], str]]] = {
    "llmasos_load": _loaded,
    "llmasos_predict": _estimate,
    "llmasos_create_scheduler": _policy,
    "llmasos_create_placement": _placement,
    "llmasos_create_server": _server,
    "llmasos_create_access": _access,
    "llmasos_create_guard": _guard,
    "llmasos_create_transcriber": _transcriber,
    "llmasos_create_speaker": _speaker,
    "llmasos_create_task": _task,
    "llmasos_accelerate": _result,
    "llmasos_fetch": _path,
    "llmasos_open": _checkpoint,
    "llmasos_export": _exported,
    "llmasos_read_tokenizer": _tokenizer,
    "llmasos_create_suite": _suite,
    "llmasos_command": _command,
}
