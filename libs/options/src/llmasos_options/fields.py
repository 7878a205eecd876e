"""What an attrs class says of its fields: key, type, default, help, choices, bounds."""

from __future__ import annotations

import operator
import typing
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

import attrs

from llmasos_hookspecs import PluginError
from llmasos_options.words import one_of, type_in_words


@attrs.frozen(eq=False)
class Field:
    """One field as config sees it.

    Attributes:
        key: the key in config, which is the name of the ``__init__`` parameter.
        type: its resolved annotation; ``Any`` where there is none.
        required: it has no default.
        default: its default, made anew by a factory; None where it is required.
        help: one sentence from the field's metadata.
        choices: the values allowed, from the metadata or an ``in_`` validator; empty where there is no such list.
        bounds: comparison sign -> number, from ``ge``, ``gt``, ``le`` and ``lt`` validators.
        attribute: the attrs attribute behind it.
    """

    key: str
    type: Any
    required: bool
    default: Any
    help: str
    choices: tuple[Any, ...]
    bounds: Mapping[str, float]
    attribute: attrs.Attribute[Any]

    @property
    def allowed(self) -> str:
        """What it may be, in words: ``one of 2, 4, 8`` or ``a whole number >= 1``."""
        if self.choices:
            return one_of(self.choices)
        limits = " and ".join(f"{sign} {bound}" for sign, bound in self.bounds.items())
        return f"{type_in_words(self.type)} {limits}".rstrip()


@cache
def fields_of(cls: type) -> tuple[Field, ...]:
    """The fields of an attrs class that config may set, in the order in which they are declared.

    Raises:
        PluginError: an annotation cannot be resolved.
    """
    try:
        hints = typing.get_type_hints(cls, include_extras=True)
    except Exception as error:  # an annotation is code, and can raise anything
        raise PluginError(
            f"The annotations of {cls.__module__}.{cls.__qualname__} cannot be resolved ({error}); import their types at run time."
        ) from error
    found = []
    for attribute in attrs.fields(cls):
        if not attribute.init:
            continue
        validators = tuple(_flat(attribute.validator))
        kind = hints.get(attribute.name, attribute.type)
        found.append(
            Field(
                key=attribute.alias or attribute.name,
                type=Any if kind is None else kind,
                required=attribute.default is attrs.NOTHING,
                default=_default(attribute.default),
                help=str(attribute.metadata.get("help", "")),
                choices=tuple(attribute.metadata.get("choices", ())) or _choices(validators),
                bounds=_bounds(validators),
                attribute=attribute,
            )
        )
    return tuple(found)


def _default(default: Any) -> Any:
    if default is attrs.NOTHING:
        return None
    # A factory that takes the half-built instance has no value outside of one.
    if isinstance(default, attrs.Factory):  # type: ignore[arg-type]  # attrs types its class as a function
        return None if default.takes_self else default.factory()
    return default


def _flat(validator: Any) -> Iterable[Any]:
    """The validators inside ``and_`` and ``optional``."""
    if validator is None:
        return
    inner = getattr(validator, "_validators", None) or getattr(validator, "validator", None)
    if inner is None:
        yield validator
    elif isinstance(inner, tuple | list):
        for each in inner:
            yield from _flat(each)
    else:
        yield from _flat(inner)


def _choices(validators: tuple[Any, ...]) -> tuple[Any, ...]:
    for validator in validators:
        options = getattr(validator, "options", None)
        if isinstance(options, tuple | list):
            return tuple(options)
        if isinstance(options, set | frozenset):
            return tuple(sorted(options, key=str))
    return ()


_SIGNS = {operator.ge: ">=", operator.gt: ">", operator.le: "<=", operator.lt: "<"}


def _bounds(validators: tuple[Any, ...]) -> dict[str, float]:
    return {
        _SIGNS[validator.compare_func]: validator.bound
        for validator in validators
        if getattr(validator, "compare_func", None) in _SIGNS and hasattr(validator, "bound")
    }
