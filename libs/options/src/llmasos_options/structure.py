"""Reads attrs classes from plain mappings, strictly: nothing is coerced, and all problems are reported at once.

cattrs is too lenient for config (it turns ``"4"`` into an int and a string into a list of letters), stops at the first problem of a
value, and does not say which attribute a validator refused; so core has its own reader.
"""

from __future__ import annotations

import enum
import typing
from collections.abc import Mapping, Sequence, Set
from pathlib import PurePath
from typing import Any, TypeVar

import attrs

from llmasos_hookspecs import ConfigError
from llmasos_hookspecs.nearest import listed, nearest
from llmasos_options.fields import Field, fields_of
from llmasos_options.words import dotted, found_in_words, is_union, one_of, type_in_words, unwrapped, value_in_words

T = TypeVar("T")

_REFUSED: Any = object()


def structure_options(cls: type[T], mapping: Mapping[str, Any], path: str = "") -> T:
    """Make an instance of an attrs class from a mapping.

    Types are strict: a bool is not an int, a string is not a number; an int is accepted for a float. ``path`` is the mapping's dotted path
    in config.

    Raises:
        ConfigError: with the path of the first problem, and a sentence for each problem.
    """
    problems: list[ConfigError] = []
    instance = _read_attrs(cls, mapping, path, problems)
    if problems:
        if len(problems) == 1:
            raise problems[0]
        raise ConfigError(" ".join(str(problem) for problem in problems), problems[0].path)
    return typing.cast(T, instance)


def find_problems(cls: type, mapping: Mapping[str, Any], path: str = "", also: tuple[str, ...] = ()) -> list[ConfigError]:
    """Every problem that ``structure_options`` would raise for, in the order of the keys. ``also``: further keys that are allowed there
    and read elsewhere."""
    problems: list[ConfigError] = []
    _read_attrs(cls, mapping, path, problems, also)
    return problems


def _read_attrs(cls: type, value: Any, path: str, problems: list[ConfigError], also: tuple[str, ...] = ()) -> Any:
    if isinstance(value, cls):
        return value
    if not isinstance(value, Mapping):
        return _refuse(path, f"{path or 'The config'} is {found_in_words(value)}, and it must be a table.", problems)
    before = len(problems)
    fields = {field.key: field for field in fields_of(cls)}
    for key in value:
        if key not in fields and key not in also:
            close = nearest(str(key), (*fields, *also))
            hint = f' did you mean "{close}"?' if close else ""
            known = f"known here: {listed((*fields, *also))}"
            place = dotted(path, key)
            _refuse(place, f"{place} is unknown;{hint} {known[0].upper() if hint else 'k'}{known[1:]}.", problems)
    arguments = {}
    for key, field in fields.items():
        place = dotted(path, key)
        if key in value:
            arguments[key] = _read_field(field, value[key], place, problems)
        elif field.required:
            _refuse(place, f"{place} must be set, to {type_in_words(field.type)}.", problems)
    if len(problems) > before:
        return _REFUSED
    return _build(cls, arguments, path, problems)


def _build(cls: type, arguments: dict[str, Any], path: str, problems: list[ConfigError]) -> Any:
    try:
        return cls(**arguments)
    except Exception as error:  # validators and converters are plugin code, which can raise anything
        field = _refused_field(cls, arguments)
        sentence = str(error.args[0] if error.args else error).rstrip(".")
        if field is None:
            return _refuse(path, f"{path or 'The config'} is not accepted: {sentence}.", problems)
        place, value = dotted(path, field.key), value_in_words(arguments.get(field.key, field.default))
        if field.bounds:
            return _refuse(place, f"{place} is {value}, and it must be {field.allowed}.", problems)
        return _refuse(place, f"{place} is {value}, which is not accepted: {sentence}.", problems)


def _refused_field(cls: type, arguments: Mapping[str, Any]) -> Field | None:
    """The first field whose validator refuses its value; None where ``__init__`` failed for another reason.

    ``__init__`` does not say which validator raised. So the attributes are set on an instance without it, converted as it does, and each
    field's validator is called in turn.
    """
    instance: Any = object.__new__(cls)
    try:
        for attribute in attrs.fields(cls):
            object.__setattr__(instance, attribute.name, _attribute_value(attribute, arguments, instance))
    except Exception:  # a converter or a factory failed, before any validator ran
        return None
    for field in fields_of(cls):
        if field.attribute.validator is None:
            continue
        try:
            field.attribute.validator(instance, field.attribute, getattr(instance, field.attribute.name))
        except Exception:
            return field
    return None


def _attribute_value(attribute: attrs.Attribute[Any], arguments: Mapping[str, Any], instance: Any) -> Any:
    """The value that ``__init__`` gives an attribute: the argument or the default, converted."""
    value: Any = arguments.get(attribute.alias or attribute.name, attribute.default) if attribute.init else attribute.default
    if isinstance(value, attrs.Factory):  # type: ignore[arg-type]  # typed as a function, and a class at run time
        value = value.factory(instance) if value.takes_self else value.factory()
    converter: Any = attribute.converter
    if not isinstance(attribute.converter, attrs.Converter):
        return value if converter is None else converter(value)
    more = ([instance] if converter.takes_self else []) + ([attribute] if converter.takes_field else [])
    return converter.converter(value, *more)


def _read_field(field: Field, value: Any, path: str, problems: list[ConfigError]) -> Any:
    found: list[ConfigError] = []
    result = _read(field.type, value, path, found)
    converter = field.attribute.converter
    if found and converter is not None and not isinstance(converter, attrs.Converter):
        # A converter accepts other types too ("6GiB" for a number of bytes); its result must have the field's type.
        try:
            converted = converter(value)
        except ConfigError as error:
            return _refuse(path, f"{path}: {error}", problems)
        except Exception as error:  # plugin code again
            return _refuse(path, f"{path} is {value_in_words(value)}, which is not accepted: {str(error).rstrip('.')}.", problems)
        again: list[ConfigError] = []
        fitting = _read(field.type, converted, path, again)
        if not again:
            # __init__ converts again, so it gets the value as it was written.
            return value if _is_chosen(field, fitting, value, path, problems) else _REFUSED
    problems.extend(found)
    return result if found or _is_chosen(field, result, value, path, problems) else _REFUSED


def _is_chosen(field: Field, result: Any, value: Any, path: str, problems: list[ConfigError]) -> bool:
    """Whether a value, or each of several, is among the field's choices."""
    if not field.choices or result is None:
        return True
    for each in result if isinstance(result, tuple | list | Set) else (result,):
        if not any(_same(each, choice) for choice in field.choices):
            meant = _meant(each, field.choices)
            _refuse(path, f"{path} is {value_in_words(value)}, and it must be {one_of(field.choices)}{meant}", problems)
            return False
    return True


def _read(kind: Any, value: Any, path: str, problems: list[ConfigError]) -> Any:
    kind = unwrapped(kind)
    if kind is Any or kind is object:
        return value
    origin = typing.get_origin(kind)
    if is_union(kind):
        return _read_union(kind, value, path, problems)
    if origin is typing.Literal:
        same = [each for each in typing.get_args(kind) if _same(each, value)]
        return same[0] if same else _wrong(kind, value, path, problems)
    if kind is None or kind is type(None):
        return None if value is None else _wrong(kind, value, path, problems)
    if kind is float:
        # An int is accepted for a float; a float for an int would lose its fraction.
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else _wrong(kind, value, path, problems)
    if kind is int:
        return value if isinstance(value, int) and not isinstance(value, bool) else _wrong(kind, value, path, problems)
    base = origin or kind
    if not isinstance(base, type):
        return value
    if attrs.has(base):
        return _read_attrs(base, value, path, problems)
    if issubclass(base, enum.Enum):
        return _read_enum(base, value, path, problems)
    if issubclass(base, PurePath):
        return base(value) if isinstance(value, str | PurePath) and str(value) else _wrong(kind, value, path, problems)
    if issubclass(base, Mapping):
        return _read_mapping(kind, base, value, path, problems)
    if base is not str and base is not bytes and issubclass(base, Sequence | Set):
        return _read_items(kind, base, value, path, problems)
    return value if isinstance(value, base) else _wrong(kind, value, path, problems)


def _read_union(kind: Any, value: Any, path: str, problems: list[ConfigError]) -> Any:
    deepest: list[ConfigError] | None = None
    # The member of the value's exact type is tried first, so that 1 stays an int for ``float | int``.
    members = sorted(typing.get_args(kind), key=lambda member: unwrapped(member) is not type(value))
    for member in members:
        found: list[ConfigError] = []
        result = _read(member, value, path, found)
        if not found:
            return result
        # A problem inside the value, for one member, helps more than the message that the value is of none of the types.
        if any(problem.path != path for problem in found) and (deepest is None or len(found) < len(deepest)):
            deepest = found
    if deepest is not None:
        problems.extend(deepest)
        return _REFUSED
    return _wrong(kind, value, path, problems)


def _read_enum(kind: type[enum.Enum], value: Any, path: str, problems: list[ConfigError]) -> Any:
    for member in kind:
        if value is member or _same(value, member.value):
            return member
    return _wrong(kind, value, path, problems)


def _read_items(kind: Any, base: type, value: Any, path: str, problems: list[ConfigError]) -> Any:
    if not isinstance(value, list | tuple | Set):
        return _wrong(kind, value, path, problems)
    arguments = typing.get_args(kind)
    items = list(value)
    if base is tuple and arguments and arguments[-1] is not Ellipsis:
        if len(items) != len(arguments):
            return _wrong(kind, value, path, problems)
        return tuple(_read(each, item, f"{path}[{i}]", problems) for i, (each, item) in enumerate(zip(arguments, items, strict=True)))
    item_kind = arguments[0] if arguments else Any
    read = [_read(item_kind, item, f"{path}[{i}]", problems) for i, item in enumerate(items)]
    if issubclass(base, list):
        return read
    if issubclass(base, Set):
        return _read_set(kind, read, value, path, problems)
    return tuple(read)


def _read_set(kind: Any, read: list[Any], value: Any, path: str, problems: list[ConfigError]) -> Any:
    try:
        return frozenset(read)
    except TypeError:
        return _wrong(kind, value, path, problems)


def _read_mapping(kind: Any, base: type, value: Any, path: str, problems: list[ConfigError]) -> Any:
    if not isinstance(value, Mapping):
        return _wrong(kind, value, path, problems)
    arguments = typing.get_args(kind)
    key_kind, value_kind = arguments if len(arguments) == 2 else (Any, Any)
    return {_read_key(key_kind, key, path, problems): _read(value_kind, item, dotted(path, key), problems) for key, item in value.items()}


def _read_key(kind: Any, key: Any, path: str, problems: list[ConfigError]) -> Any:
    # TOML and JSON have string keys only, so that an int key has to be parsed.
    if unwrapped(kind) is int and isinstance(key, str):
        try:
            return int(key)
        except ValueError:
            return _refuse(path, f"{path} has the key {value_in_words(key)}, and its keys must be whole numbers.", problems)
    return _read(kind, key, dotted(path, key), problems)


def _same(left: Any, right: Any) -> bool:
    """Equal, and both or neither a bool: ``True`` does not equal 1 here, and 1 equals 1.0."""
    return isinstance(left, bool) == isinstance(right, bool) and bool(left == right)


def _wrong(kind: Any, value: Any, path: str, problems: list[ConfigError]) -> Any:
    if typing.get_origin(kind) is typing.Literal:
        allowed = typing.get_args(kind)
    elif isinstance(kind, type) and issubclass(kind, enum.Enum):
        allowed = tuple(member.value for member in kind)
    else:
        return _refuse(path, f"{path} is {found_in_words(value)}, and it must be {type_in_words(kind)}.", problems)
    return _refuse(path, f"{path} is {value_in_words(value)}, and it must be {one_of(allowed)}{_meant(value, allowed)}", problems)


def _meant(value: Any, allowed: Sequence[Any]) -> str:
    close = nearest(value, [each for each in allowed if isinstance(each, str)]) if isinstance(value, str) else None
    return f'; did you mean "{close}"?' if close else "."


def _refuse(path: str, sentence: str, problems: list[ConfigError]) -> Any:
    problems.append(ConfigError(sentence, path))
    return _REFUSED
