"""Which distribution brings a component that is not installed, which component stands where config names none, and short names of models.

All of it is data, in ``catalog.toml`` beside this module.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmasos_hookspecs import KINDS


@functools.cache
def _catalog() -> Mapping[str, Any]:
    import tomllib

    return tomllib.loads(Path(__file__).with_name("catalog.toml").read_text(encoding="utf-8"))


@functools.cache
def published() -> Mapping[str, Mapping[str, str]]:
    """Kind -> name in config -> distribution, for the components that this project publishes."""
    return {
        kind: {name: distribution for distribution, names in distributions.items() for name in names}
        for kind, distributions in _catalog()["published"].items()
    }


def faster() -> Mapping[str, str]:
    """Distribution -> what it does, for those that make others faster and have no components of their own."""
    return dict(_catalog()["faster"])


def distribution_for(kind: str, name: str) -> str:
    """The distribution to install for a component: the published one, else the one that the naming convention asks for."""
    known = published().get(kind, {}).get(name)
    return known or f"llmasos-{KINDS[kind].word}-{name.replace('_', '-')}"


def default_component(kind: str) -> str:
    """The component of a kind that stands where config names none. Raises ``KeyError`` where the kind has none."""
    return str(_catalog()["defaults"][kind])


def first_component(kind: str) -> str:
    """The component of a kind to name first. Raises ``KeyError`` where the catalogue has none."""
    return str(_catalog()["first"][kind])


def first_distribution(kind: str) -> str:
    """What to install first where no component of a kind is. Raises ``KeyError`` where the catalogue suggests none."""
    return distribution_for(kind, first_component(kind))


def usual_suites() -> tuple[tuple[str, bool], ...]:
    """The suites that measure where the user names none, in order, and whether each measures times."""
    measures = _catalog()["measures"]
    return tuple((name, name in measures["timed"]) for name in measures["suites"])


def reference_forms() -> str:
    """The forms of references to models that are not on this machine, for a sentence: ``a:NAME or b:NAME``."""
    return " or ".join(_catalog()["references"].values())


def known_aliases() -> Mapping[str, Mapping[str, str]]:
    """The built-in aliases of models: name -> ``target`` and, where users are told something, ``warning``."""
    aliases: Mapping[str, Mapping[str, str]] = _catalog()["aliases"]
    return aliases


def known_files() -> Mapping[str, str]:
    """Pattern of file names, in lower case -> the format that reads them: what to install where nothing does."""
    found: Mapping[str, str] = _catalog()["files"]
    return found


def known_tokenizers() -> Mapping[str, str]:
    """Pattern of file names, in lower case -> the format that reads tokenizers in such files."""
    found: Mapping[str, str] = _catalog()["tokenizers"]
    return found


def known_quantizations() -> Mapping[str, str]:
    """``quant_method`` of a config -> the format that reads weights quantised so."""
    found: Mapping[str, str] = _catalog()["quantizations"]
    return found


def foreign_name(kind: str, name: str) -> str | None:
    """Our name for what users of other systems call a component; None where there is none."""
    return None if (found := _catalog()["foreign"].get(kind, {}).get(name.lower())) is None else str(found)


def taker_of(form: str) -> str | None:
    """The distribution whose loader takes checkpoints of a format that core does not read; None where the catalogue has none."""
    loader = _catalog()["formats"].get(form)
    return None if loader is None else distribution_for("loader", loader)
