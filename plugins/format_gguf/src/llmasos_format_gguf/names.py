"""Which GGUF tensors a Hugging Face tensor is made of, by the ``gguf`` package's own table of names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Final

import attrs
from gguf.constants import MODEL_ARCH, MODEL_ARCH_NAMES, TENSOR_NAMES
from gguf.tensor_mapping import get_tensor_name_map

from llmasos_format_gguf.family import Family, Module
from llmasos_format_gguf.layouts import Layout

_NAME: Final = re.compile(r"(?:blk\.(\d{1,6})\.)?([a-z0-9_.]+?)(?:\.(weight|bias|scale))?")
_ARCHITECTURES: Final[Mapping[str, MODEL_ARCH]] = {name: arch for arch, name in MODEL_ARCH_NAMES.items()}

#: How a layer is named in GGUF.
_LAYER: Final = "blk.{bid}."


@attrs.frozen
class Place:
    """Where a GGUF tensor belongs: the module, which of its parts it is, its leaf, and the layer (0 outside of them)."""

    module: Module
    part: int
    leaf: str
    layer: int

    @property
    def layout(self) -> Layout:
        """How it differs from Hugging Face's."""
        return self.module.layout_of(self.leaf)

    def name(self, expert: int = 0) -> str:
        """Hugging Face's name of the tensor, or of one expert."""
        return _huggingface(self.module, self.leaf, self.layer, expert)


@attrs.frozen
class NameTable:
    """The names of one family, both ways."""

    family: Family
    #: (GGUF's name in its layer, leaf, whether it is a layer's) -> module and part.
    modules: Mapping[tuple[str, str, bool], tuple[Module, int]]

    def place(self, name: str) -> Place | None:
        """Where a GGUF tensor belongs; None for one that the family does not have."""
        found = _NAME.fullmatch(name)
        if found is None:
            return None
        layer, base, leaf = found.groups()
        entry = self.modules.get((base, leaf or "", layer is not None))
        return None if entry is None else Place(*entry, leaf or "", int(layer or 0))

    def parts(self, module: Module, leaf: str, layer: int) -> tuple[str, ...]:
        """The GGUF tensors that hold a module's leaf."""
        return tuple(f"{base.format(bid=layer)}.{leaf}".rstrip(".") for base in _bases(self.family.arch, module))

    def tensors(self, layers: int, experts: Mapping[str, int], names: Iterable[str]) -> Iterator[tuple[Place, list[str]]]:
        """Each place that Hugging Face's ``names`` fill, in GGUF's order, with the names that fill it: several where experts are
        stacked, as many as ``experts`` says of the module."""
        held = set(names)
        for module in (module for module in self.family.modules if module.written):
            leaves = ("weight", "bias") if module.leaf is None else (module.leaf,)
            for layer in range(layers if "{}" in module.name else 1):
                for leaf in leaves:
                    count = experts.get(module.name, 1) if "{expert}" in module.name else 1
                    filled = [name for expert in range(count) if (name := _huggingface(module, leaf, layer, expert)) in held]
                    if filled:
                        yield Place(module, 0, leaf, layer), filled


@cache
def name_table(family: Family) -> NameTable:
    """The names of one family of ``FAMILIES``."""
    modules = {}
    for module in family.modules:
        for part, base in enumerate(_bases(family.arch, module)):
            in_layer = base.startswith(_LAYER)
            for leaf in ("weight", "bias") if module.leaf is None else (module.leaf,):
                modules[base.removeprefix(_LAYER), leaf, in_layer] = (module, part)
    return NameTable(family, modules)


def _huggingface(module: Module, leaf: str, layer: int, expert: int) -> str:
    name = module.name.format(layer, expert=expert)
    return f"{name}.{leaf}" if module.leaf is None else name


def _bases(arch: str, module: Module) -> tuple[str, ...]:
    """GGUF's names of a module, with ``{bid}`` for the layer."""
    if module.tensors:
        return tuple(TENSOR_NAMES[tensor] for tensor in module.tensors)
    found = _package_table(arch).get_name(module.name.format(0))
    assert found is not None, f"the gguf package has no name for {module.name} in {arch}"
    return (found.replace("blk.0.", _LAYER, 1),)


@cache
def _package_table(arch: str):  # type: ignore[no-untyped-def]  # the package's class has no types
    return get_tensor_name_map(_ARCHITECTURES[arch], 1)
