"""The environment: jinja2's sandbox with everything on a list and paid for."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime
from types import CodeType
from typing import Any, Final

import jinja2
from jinja2 import nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.runtime import LoopContext, Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from llmasos_chat_templates.sandbox import allowed
from llmasos_chat_templates.sandbox.limits import LimitReached, bounded, made, pay_bytes, spend, weigh, weighed

_BUILTIN: Final = type(len)
#: Where a compiled template is from. Python opens the file that a syntax error names, and this one no folder can hold.
_NOWHERE: Final = os.path.join(os.devnull, "chat template")
#: Nodes of a loop's body that are evaluated for one step.
_NODES_A_STEP: Final = 8


class _Metered(NodeTransformer):
    """Puts a price on loops, macros, comparisons and ``~``."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802 - the visitor's naming
        metered = self._with_steps(node)
        if node.test is not None:  # it is asked for values that never reach the body
            node.test = nodes.And(_call("spend", [_price([node.test])], node.lineno), node.test, lineno=node.lineno)
        return metered

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:  # noqa: N802
        return self._with_steps(node)

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:  # noqa: N802
        return self._with_steps(node)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _call("concatenate", list(node.nodes), node.lineno)

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        holders: list[Any] = [node, *node.ops]
        for holder in holders:
            if not isinstance(holder.expr, nodes.Const):
                holder.expr = _call("weighed", [holder.expr], node.lineno)
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        if not isinstance(node.arg, nodes.Slice):
            return node
        ends = [end or nodes.Const(None) for end in (node.arg.start, node.arg.stop, node.arg.step)]
        return _call("sliced", [node.node, *ends], node.lineno)

    def visit_ScopedEvalContextModifier(self, node: nodes.ScopedEvalContextModifier) -> nodes.Node:  # noqa: N802
        raise jinja2.TemplateSyntaxError("autoescape is for web pages", node.lineno)

    def _with_steps(self, node: Any) -> nodes.Node:
        price = _price(node.body)
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(_call("spend", [price], node.lineno), lineno=node.lineno))
        assert isinstance(node, nodes.Node)
        return node


def _price(parts: list[Any]) -> nodes.Const:
    count = sum(1 + sum(1 for _ in part.find_all(nodes.Node)) for part in parts)
    return nodes.Const(1 + count // _NODES_A_STEP)


def _call(method: str, arguments: list[nodes.Expr], line: int) -> nodes.Call:
    # An attribute of the environment: a template can rebind any name, and not this.
    return nodes.Call(nodes.EnvironmentAttribute(method, lineno=line), arguments, [], None, None, lineno=line)


class _Generation(Extension):
    """``{% generation %}``: transformers marks the assistant's words with it for training; for rendering it is nothing."""

    tags = {"generation"}  # noqa: RUF012 - jinja2's own form

    def parse(self, parser: Any) -> list[nodes.Node]:
        next(parser.stream)
        body: list[nodes.Node] = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return body


class ChatEnvironment(ImmutableSandboxedEnvironment):
    """The environment of all chat templates; see the package. Compile and render inside ``budget()``."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})

    def __init__(self) -> None:
        # Nothing is computed while a template is compiled: not optimized, and a finalizer that needs the context.
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, optimized=False, extensions=[_Generation, loopcontrols], finalize=_written, cache_size=0
        )
        self.spend = spend
        self.weighed = weighed
        self.concatenate = _concatenate
        self.sliced = _sliced
        self._own = (spend, weighed, _concatenate, _sliced)
        self.concat = _concatenated  # type: ignore[method-assign]  # Jinja2's own way to change it
        self.filters.clear()
        self.filters.update(allowed.filters())
        self.tests.clear()
        self.tests.update(allowed.tests())
        self.globals = {
            "range": self.globals["range"],
            "dict": dict,
            "namespace": _PlainNamespace,
            "raise_exception": _raise_exception,
            "strftime_now": _strftime_now,
        }
        self._functions = tuple(self.globals.values())

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        _Metered().visit(tree)
        return tree

    def _compile(self, source: str, filename: str) -> CodeType:
        return compile(source, _NOWHERE, "exec")

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Whether an attribute is on the list for its kind of object."""
        if isinstance(obj, Namespace):
            return not attr.startswith("_")
        kinds = (
            (str, allowed.TEXT_METHODS),
            (dict, allowed.DICT_METHODS),
            ((list, tuple), allowed.LIST_METHODS),
            (LoopContext, allowed.LOOP_ATTRIBUTES),
            (Macro, allowed.MACRO_ATTRIBUTES),
        )
        return any(isinstance(obj, kind) and attr in names for kind, names in kinds)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Refuse what would make a huge value."""
        allowed.check_operation(operator, left, right)
        return made(super().call_binop(context, operator, left, right))

    def call(self, context: Any, called: Any, *args: Any, **kwargs: Any) -> Any:
        """Call what is on the list; every call costs a step."""
        if called in self._own:
            return called(*args)
        spend(1 + (len(args) + len(kwargs)) // _NODES_A_STEP)
        if isinstance(called, (Macro, LoopContext, Undefined)) or any(called is each for each in self._functions):
            return made(super().call(context, called, *args, **kwargs))
        # What jinja2 hands along for those above alone.
        words = {name: value for name, value in kwargs.items() if name not in ("_loop_vars", "_block_vars")}
        owner, name = getattr(called, "__self__", None), getattr(called, "__name__", "")
        if isinstance(called, _Format):
            return called(*args, **words)
        if isinstance(called, _BUILTIN) and type(owner) is str and name in allowed.TEXT_METHODS:
            return allowed.call_text_method(called, owner, *args, **words)
        if isinstance(called, _BUILTIN) and isinstance(owner, dict) and name in allowed.DICT_METHODS:
            weigh(args)
            return called(*args, **words)
        listed = isinstance(called, _BUILTIN) and isinstance(owner, (list, tuple)) and name in allowed.LIST_METHODS
        if listed or (isinstance(owner, LoopContext) and name in ("changed", "cycle")):
            weigh([owner if listed else (), *args])
            return called(*args, **words)
        raise SecurityError(f"it calls {name or type(called).__name__!r}, which templates may not")

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """``str.format``, which jinja2 replaces by its own, with a check of widths."""
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None
        if value.__name__ != "format":
            raise SecurityError(f"it calls {value.__name__!r}, which templates may not")
        return _Format(allowed.guarded_format(wrapped, value.__self__))


class _Format:
    """A method ``format`` that was checked, so that ``ChatEnvironment.call`` knows it."""

    def __init__(self, function: Callable[..., str]) -> None:
        self._function = function

    def __call__(self, *args: Any, **kwargs: Any) -> str:
        return self._function(*args, **kwargs)


@pass_context
def _written(_: Any, value: Any) -> str:
    """A value as text, as an output block writes it."""
    if type(value) is str:
        return value
    weigh(value)
    return str(made(str(value)))


def _concatenate(*parts: Any) -> str:
    spend()
    texts = [_written(None, part) for part in parts]
    bounded(sum(map(len, texts)))
    return str(made("".join(texts)))


def _sliced(value: Any, start: Any, stop: Any, step: Any) -> Any:
    spend()
    if isinstance(value, (list, tuple)):
        pay_bytes(8 * len(value))  # a copy is no longer, and is made before it can be seen
    return made(value[start:stop:step])


def _concatenated(parts: Any) -> str:
    found, size = [], 0
    for part in parts:
        size += len(part)
        bounded(size)
        pay_bytes(8)
        found.append(part)
    return str(made("".join(found)))


def _raise_exception(message: object) -> None:
    weigh(message)
    raise jinja2.TemplateError(str(message))


def _strftime_now(form: str) -> str:
    if len(form) > 256:
        raise LimitReached("it asks for too long a date")
    return datetime.now().strftime(form)


class _PlainNamespace(Namespace):
    """A namespace that takes no names of Python's internals."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # `self` may be one of the names
        for name in dict(*args[1:], **kwargs):
            _check_name(name)
        Namespace.__init__(*args, **kwargs)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace cannot hold {name!r}")
