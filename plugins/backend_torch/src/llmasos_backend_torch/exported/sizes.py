"""Checks that symbolic sizes of an exported program are plain, bounded arithmetic over symbols, before sympy evaluates them."""

from __future__ import annotations

import ast
import re
from typing import Final

_SYMBOL: Final = re.compile(r"[suz]u?f?\d{1,6}")
#: Names in the sizes that torch writes: sympy's classes, torch's own functions, and assumptions about a symbol.
_FUNCTIONS: Final = frozenset(
    (
        "Symbol", "Integer", "Float", "Rational", "Add", "Mul", "Pow", "Max", "Min", "Mod", "PythonMod", "FloorDiv", "CleanDiv", "CeilDiv",
        "CeilToInt", "FloorToInt", "ToFloat", "IntTrueDiv", "Eq", "Ne", "Equality", "Unequality", "GreaterThan", "LessThan",
        "StrictGreaterThan", "StrictLessThan", "And", "Or", "Not",
    )
)  # fmt: skip
_ASSUMPTIONS: Final = frozenset(("positive", "nonnegative", "integer", "precision"))
_NAMES: Final = frozenset(("True", "False", "int_oo"))
_OPERATORS: Final = (ast.Add, ast.Sub, ast.Mult, ast.FloorDiv, ast.Div, ast.Mod)
#: Characters of the longest size, bits of the largest number, and the highest power. Real sizes have a few dozen characters and squares.
_MOST_CHARACTERS: Final = 2000
_MOST_BITS: Final = 63
_MOST_POWER: Final = 4


def is_size(expression: str) -> bool:
    """Whether an expression is cheap arithmetic: no attribute, subscript or unknown call, and no nested powers."""
    if len(expression) > _MOST_CHARACTERS:
        return False
    try:
        return _plain(ast.parse(expression, mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


def _plain(node: ast.expr) -> bool:
    match node:
        case ast.Constant(value=bool() | float()):
            return True
        case ast.Constant(value=int() as number):
            return number.bit_length() <= _MOST_BITS
        case ast.Constant(value=str() as name):
            return _SYMBOL.fullmatch(name) is not None
        case ast.Name(id=name):
            return name in _NAMES or _SYMBOL.fullmatch(name) is not None
        case ast.UnaryOp(operand=operand):
            return _plain(operand)
        case ast.BinOp(op=ast.Pow(), left=base, right=power):
            return _is_atom(base) and _is_small(power)
        case ast.BinOp(op=op, left=left, right=right):
            return isinstance(op, _OPERATORS) and _plain(left) and _plain(right)
        case ast.BoolOp(values=values):
            return all(map(_plain, values))
        case ast.Compare(left=left, comparators=others):
            return all(map(_plain, (left, *others)))
        case ast.Call(func=ast.Name(id="Pow"), args=[base, power], keywords=[]):
            return _is_atom(base) and _is_small(power)
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=keywords):
            assumed = all(each.arg in _ASSUMPTIONS and isinstance(each.value, ast.Constant) for each in keywords)
            return name in _FUNCTIONS and name != "Pow" and assumed and all(map(_plain, arguments))
        case _:
            return False


def _is_atom(base: ast.expr) -> bool:
    """Whether a base is a symbol or a number; a power of a power could have any number of digits."""
    match base:
        case ast.Name() | ast.Constant():
            return _plain(base)
        case ast.Call(func=ast.Name(id="Symbol" | "Integer")):
            return _plain(base)
        case _:
            return False


def _is_small(power: ast.expr) -> bool:
    match power:
        case ast.Constant(value=int() as number):
            return abs(number) <= _MOST_POWER
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return _is_small(operand)
        case ast.Call(func=ast.Name(id="Integer"), args=[operand], keywords=[]):
            return _is_small(operand)
        case _:
            return False
