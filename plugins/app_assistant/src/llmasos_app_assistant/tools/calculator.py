"""A calculator: arithmetic is read by a parser, and nothing of it is run as code."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any, Final

from llmasos_app_assistant.tools.functions import tool
from llmasos_app_assistant.tools.tool import Tool, ToolError

Number = int | float

#: Characters of an expression, and bits of a whole number in it: the time that a calculation takes is bounded by both.
_LONGEST: Final = 500
_BITS: Final = 4096

_OPERATORS: Final[Mapping[type[ast.operator], Callable[[Any, Any], Any]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_SIGNS: Final[Mapping[type[ast.unaryop], Callable[[Any], Any]]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}
_FUNCTIONS: Final[Mapping[str, Callable[..., Any]]] = {
    **{name: getattr(math, name) for name in ("sqrt", "exp", "log", "log2", "log10", "sin", "cos", "tan", "asin", "acos", "atan")},
    **{name: getattr(math, name) for name in ("floor", "ceil", "gcd", "hypot", "degrees", "radians")},
    "abs": abs,
    "min": min,
    "max": max,
    "round": round,
}
_CONSTANTS: Final[Mapping[str, float]] = {"pi": math.pi, "e": math.e, "tau": math.tau}


def calculator_tool() -> Tool:
    """The tool ``calculator``."""

    @tool(repeatable=True)
    def calculator(expression: str) -> str:
        """Calculate an arithmetic expression exactly, such as (3 + 4) * 2 ** 10 / 7 or sqrt(2).

        Args:
            expression: numbers, + - * / // % **, parentheses, pi, e, and functions such as sqrt, log, sin, round, min and max.
        """
        return calculate(expression)

    return calculator


def calculate(expression: str) -> str:
    """The value of an arithmetic expression. Raises ``ToolError`` where it is none, or its numbers grow too large."""
    if len(expression) > _LONGEST:
        raise ToolError(f"The expression has {len(expression)} characters, and the calculator takes {_LONGEST}.")
    try:
        value = _value(ast.parse(expression.strip().replace("^", "**"), mode="eval").body)
        return f"{value:.15g}" if isinstance(value, float) else str(value)
    except (SyntaxError, MemoryError, RecursionError) as error:
        raise ToolError(f"{expression!r} is no arithmetic expression.") from error
    except (ValueError, ArithmeticError, TypeError) as error:
        raise ToolError(f"{expression!r} has no value: {error}.") from error


def _value(node: ast.expr) -> Number:
    match node:
        case ast.Constant(value=bool()):
            pass
        case ast.Constant(value=int() | float() as value):
            return _bounded(value)
        case ast.Name(id=name) if name in _CONSTANTS:
            return _CONSTANTS[name]
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _SIGNS:
            return _bounded(_SIGNS[type(op)](_value(operand)))
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return _power(_value(left), _value(right))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _bounded(_OPERATORS[type(op)](_value(left), _value(right)))
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in _FUNCTIONS:
            return _bounded(_FUNCTIONS[name](*map(_value, arguments)))
    raise ToolError(f"The calculator knows numbers, + - * / // % **, pi, e, tau, and the functions {', '.join(_FUNCTIONS)}.")


def _power(base: Number, exponent: Number) -> Number:
    if isinstance(base, int) and isinstance(exponent, int) and exponent > 0 and base.bit_length() * exponent > _BITS:
        raise ToolError(f"{base} ** {exponent} has too many digits; calculate with a smaller exponent, or write {base}.0.")
    return _bounded(base**exponent)


def _bounded(value: Any) -> Number:
    if isinstance(value, complex) or not isinstance(value, int | float):
        raise ToolError("The value is no real number.")
    if isinstance(value, float) and not math.isfinite(value):
        raise ToolError("The value is too large.")
    if isinstance(value, int) and value.bit_length() > _BITS:
        raise ToolError("The value has too many digits.")
    return value
