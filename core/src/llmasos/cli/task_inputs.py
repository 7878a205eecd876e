"""The typed inputs of a task, from the words of a command line, from texts and from plain data."""

from __future__ import annotations

import json
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmasos.cli.asking import read_text
from llmasos_hookspecs import RequestError
from llmasos_hookspecs.nearest import did_you_mean
from llmasos_options import fields_of, find_problems, structure_options
from llmasos_options.words import is_image, is_union, unwrapped


def make_inputs(cls: type, values: Mapping[str, Any]) -> Any:
    """The inputs that plain data describes. Raises ``RequestError`` with one sentence for each problem."""
    problems = find_problems(cls, values)
    if problems:
        raise RequestError(" ".join(str(problem) for problem in problems))
    return structure_options(cls, values)


def from_texts(cls: type, texts: Mapping[str, str]) -> dict[str, Any]:
    """Texts, as a CSV file has them, as the fields' types want them: an empty one is left out where the field has a default, a number,
    list or table is read as JSON, a text that is no JSON is a list of one text where the field is a list."""
    fields = {field.key: field for field in fields_of(cls)}
    return {
        key: _typed(text, fields[key].type) if key in fields else text
        for key, text in texts.items()
        if text or key not in fields or fields[key].required
    }


def from_words(cls: type, words: Sequence[str]) -> dict[str, Any]:
    """Command-line words ``--name value``, ``--name=value`` or ``--flag`` as inputs by name; of a list each word is one item more.

    Raises:
        RequestError: a word is no option, or an option lacks its value.
    """
    fields = {field.key: field for field in fields_of(cls)}
    left = list(words)
    inputs: dict[str, Any] = {}
    while left:
        word = left.pop(0)
        key, equals, value = word.removeprefix("--").partition("=")
        key = key.replace("-", "_")
        if not word.startswith("--") or key not in fields:
            raise RequestError(f'"{word}" is no input of the task{did_you_mean(key, fields)}')
        field = fields[key]
        if not equals:
            if field.type is bool and (not left or left[0].startswith("--")):
                value = "true"
            elif not left:
                raise RequestError(f"--{key} lacks its value; it must be {field.allowed}.")
            else:
                value = left.pop(0)
        read = _typed(value if _is_of_images(field.type) else _text_of(value), field.type)
        if key in inputs and isinstance(inputs[key], list):
            inputs[key].extend(read if isinstance(read, list) else [read])
        else:
            inputs[key] = read
    return inputs


def _text_of(word: str) -> str:
    """What a word stands for: ``@FILE`` for a file's text, ``-`` for standard input, another for itself."""
    if word == "-":
        return read_text(None)
    if not word.startswith("@"):
        return word
    try:
        return Path(word[1:]).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"The file {word[1:]} cannot be read as text: {getattr(error, 'strerror', None) or error}.") from error


def _typed(text: str, kind: Any) -> Any:
    """A text as the field's type wants it: text stays text, all else is read as JSON where it is JSON; a text that is no JSON is a list
    of one text where the field is a list. An image is the name of a file, or a ``data:`` URL."""
    if _is_of_images(kind):
        image = text if text.startswith("data:") else Path(text.removeprefix("@")).expanduser()
        return image if is_image(kind) else [image]
    kind = unwrapped(kind)
    if kind is str or (is_union(kind) and str in typing.get_args(kind)):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return [text] if _is_list(kind) else text


def _is_of_images(kind: Any) -> bool:
    """Whether a field is an image, or a list of them."""
    return is_image(kind) or any(is_image(each) for each in typing.get_args(kind))


def _is_list(kind: Any) -> bool:
    base = typing.get_origin(kind) or kind
    return isinstance(base, type) and issubclass(base, Sequence) and base is not str
