"""Names of programming languages, and whether a text is code in one of them."""

from __future__ import annotations

import importlib
import json
import os
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from llmasos_hookspecs import RequestError

if TYPE_CHECKING:
    from tree_sitter import Node

_ALIASES = {
    "": "python",
    "py": "python",
    "python3": "python",
    "js": "javascript",
    "node": "javascript",
    "ts": "typescript",
    "c++": "cpp",
    "golang": "go",
    "rs": "rust",
    "sh": "bash",
    "shell": "bash",
}

#: Language -> module of its parser, and the function in it that gives the grammar.
_PARSERS = {
    "bash": ("tree_sitter_bash", "language"),
    "c": ("tree_sitter_c", "language"),
    "cpp": ("tree_sitter_cpp", "language"),
    "go": ("tree_sitter_go", "language"),
    "java": ("tree_sitter_java", "language"),
    "javascript": ("tree_sitter_javascript", "language"),
    "rust": ("tree_sitter_rust", "language"),
    "typescript": ("tree_sitter_typescript", "language_typescript"),
}

#: Where the code is from. Python opens the file that a syntax error names, and this one no folder can hold.
_NOWHERE = os.path.join(os.devnull, "answer")

#: Languages that ``syntax_problem`` knows.
CHECKED = ("python", "json", *_PARSERS)


def canonical(language: str) -> str:
    """The name of a language as Markdown fences have it: ``C++`` becomes ``cpp``, nothing becomes ``python``."""
    name = "".join(language.split()).lower()
    return _ALIASES.get(name, name)


def syntax_problem(code: str, language: str) -> str | None:
    """The first syntax error of ``code`` in ``language``, with its line; None if it parses. The code is never run.

    Raises ``RequestError`` if the language has no parser, or its parser is not installed.
    """
    name = canonical(language)
    if not code.strip():
        return "there is no code"
    if name == "python":
        return _python_problem(code)
    if name == "json":
        return _json_problem(code)
    if name not in _PARSERS:
        raise RequestError(f"Code in {language!r} cannot be checked; leave check off, or use one of {', '.join(CHECKED)}.")
    return _tree_problem(code, name)


def _python_problem(code: str) -> str | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a doubtful escape compiles all the same
            compile(code, _NOWHERE, "exec", dont_inherit=True)
    except SyntaxError as error:
        return f"line {error.lineno}: {error.msg}"
    except (ValueError, OverflowError, MemoryError, RecursionError) as error:  # null bytes, huge numbers, deep nesting
        return str(error) or type(error).__name__
    return None


def _json_problem(code: str) -> str | None:
    try:
        json.loads(code)
    except json.JSONDecodeError as error:
        return f"line {error.lineno}: {error.msg}"
    except RecursionError:
        return "it is nested too deeply"
    except ValueError as error:  # a number of more digits than Python reads
        return str(error)
    return None


def _tree_problem(code: str, name: str) -> str | None:
    module, function = _PARSERS[name]
    try:
        from tree_sitter import Language, Parser

        grammar: Any = getattr(importlib.import_module(module), function)()
    except ImportError:
        raise RequestError(f'Checking {name} needs its parser: pip install "llmasos-app-code[languages]".') from None
    tree = Parser(Language(grammar)).parse(code.encode())
    if not tree.root_node.has_error:
        return None
    bad = next(_errors(tree.root_node), tree.root_node)
    line = bad.start_point[0] + 1
    return f"line {line}: {bad.type!r} is missing" if bad.is_missing else f"line {line}: this cannot be parsed: {_excerpt(bad)}"


def _errors(node: Node) -> Iterator[Node]:
    stack = [node]
    while stack:
        current = stack.pop()
        if current.is_error or current.is_missing:
            yield current
        if current.has_error:
            stack.extend(reversed(current.children))


def _excerpt(node: Node) -> str:
    text = (node.text or b"").decode("utf-8", "replace").strip()
    return repr(text.splitlines()[0][:60] if text else "")
