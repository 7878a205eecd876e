"""Writes new plugin packages that pass their own tests: ``llmasos plugins new``."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import keyword
import re
import shutil
import sys
import tomllib
from collections.abc import Collection, Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final

from llmasos_hookspecs import GROUPS, KINDS, PluginError
from llmasos_hookspecs.nearest import did_you_mean

_SUFFIX: Final = ".template"
_NAME: Final = re.compile(r"[a-z](?:[a-z0-9]|[-_](?=[a-z0-9]))*")

#: In a template's folder: the package's one-sentence description, how it is used once it is installed, and what it requires.
_ABOUT: Final = "about.toml"


def new_plugin(kind: str, name: str, parent: Path, *, taken: Collection[str] = ()) -> Path:
    """Write a package for a component ``name`` of ``kind`` into ``parent / name`` and return that folder.

    The name becomes the distribution's and the entry point's; with underscores it is the module's. The folder appears whole or not
    at all.

    Raises:
        PluginError: the kind is none, the name cannot be a module's or is that of something else, or the folder is there already.
    """
    if kind not in KINDS:
        raise PluginError(f'"{kind}" is no kind of plugin{did_you_mean(kind, KINDS)} The kinds are {", ".join(KINDS)}.')
    module = name.replace("-", "_")
    if not _NAME.fullmatch(name) or keyword.iskeyword(module):
        raise PluginError(f'"{name}" cannot name a plugin; use lower-case letters, digits and single hyphens, such as my-{kind}.')
    other = "a component" if name in taken else _other_use(name, module)
    if other:
        better = f"llmasos-{KINDS[kind].word}-{name}"
        raise PluginError(f'"{name}" is the name of {other} that is here already; choose another, such as {better}.')
    folder = parent / name
    if folder.exists():
        raise PluginError(f"{folder} is there already; choose another name, or remove it first.")
    templates = resources.files("llmasos_devtools.new") / "templates"
    about = tomllib.loads((templates / kind / _ABOUT).read_text(encoding="utf-8"))
    words = {"distribution": name, "entry": name, "module": module, "kind": kind, "group": GROUPS[kind]}
    words |= {"summary": about["summary"], "requires": "".join(f', "{each}"' for each in about.get("requires", ()))}
    words["usage"] = "\n".join(f"    {line}" for line in _filled(about["usage"], words).strip().splitlines())
    partial = parent / f".{name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        for part in ("common", kind):
            _write(templates / part, partial, words)
        partial.rename(folder)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise PluginError(f"{folder} could not be written ({error.strerror}); choose a folder that you may write to.") from error
    return folder


def _other_use(name: str, module: str) -> str:
    """What else has the name of a distribution or of its module: a plugin by that name would hide it, or be hidden."""
    if module in sys.stdlib_module_names:
        return "a module of Python"
    if importlib.util.find_spec(module) is not None:
        return "an installed module"
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
    return "an installed package"


def _write(template: Traversable, target: Path, words: Mapping[str, str]) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for item in template.iterdir():
        name = _filled(item.name, words)
        if item.is_dir():
            _write(item, target / name, words)
        elif name.endswith(_SUFFIX):
            (target / name.removesuffix(_SUFFIX)).write_text(_filled(item.read_text(encoding="utf-8"), words), encoding="utf-8")


def _filled(text: str, words: Mapping[str, str]) -> str:
    # Words between @ signs: neither Python, TOML nor YAML of the templates uses them, and $ and {} all do.
    for word, value in words.items():
        text = text.replace(f"@{word}@", value)
    return text
