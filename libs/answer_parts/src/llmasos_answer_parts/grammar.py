"""What an answer with tools may be, as a Lark grammar of llguidance: text, or calls that the functions' JSON Schemas allow.

https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md has the language.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from llmasos_answer_parts.call_forms import CallForm
from llmasos_answer_parts.functions import Function, ToolChoice, is_text
from llmasos_answer_parts.harmony_grammar import harmony_grammar
from llmasos_answer_parts.reasoning import Marks, ReasoningState

#: Keywords of a schema that say nothing of the value, and those that hold values.
_FOR_PEOPLE: Final = frozenset({"title", "description", "$comment"})
_VALUES: Final = frozenset({"const", "enum", "default", "examples"})
#: JSON as ``json.dumps`` writes it, which is what models see of it in training.
_AS_DUMPED: Final = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}

#: What follows a value that stands in an element.
_PARAMETER_END: Final = "\n</parameter>\n"


def grammar_of(
    form: CallForm,
    functions: Sequence[Function],
    choice: ToolChoice,
    *,
    several: bool = True,
    marks: Marks | None = None,
    state: ReasoningState = "after",
    answer: Any = None,
    control_tokens: Mapping[str, int] | None = None,
) -> str:
    """The grammar of an answer.

    Args:
        form: of the calls.
        functions: at least one.
        choice: ``auto`` or ``required``.
        several: more than one call is allowed, where the form has that.
        marks: of reasoning, which may be as long as it likes.
        state: where the answer begins.
        answer: JSON Schema of a text that is no call; None: any text.
        control_tokens: those of the marks that are control tokens of the vocabulary, with their ids.
    """
    grammar = _Grammar(form, marks, control_tokens or {})
    if form.written == "messages":
        return harmony_grammar(
            functions, choice, mark=grammar.mark, literal=_literal, schema=_json, answer=answer, control_tokens=control_tokens or {}
        )
    return grammar.written(functions, choice, several, state, answer)


class _Grammar:
    def __init__(self, form: CallForm, marks: Marks | None, control_tokens: Mapping[str, int]) -> None:
        self._form = form
        self._marks = marks
        self._tokens = control_tokens
        self._rules: list[str] = []
        self._open = False  # a function takes further parameters

    def written(self, functions: Sequence[Function], choice: ToolChoice, several: bool, state: ReasoningState, answer: Any) -> str:
        offered = [function for function in functions if choice.allows(function.name)]
        self._calls(offered, several and self._form.several and choice.name is None)
        called = f"{self.mark(self._form.begin)} calls"
        if choice.mode == "required":
            body, space = called, True
        elif answer is not None:
            self._rules.append(f"answer: {_json(answer)}")
            body, space = f"(answer | {called})", True
        else:
            body, space = f"({self._text_or(called)})", False
        return "\n".join([f"start: {self._reasoning(state, space)} {body}", *self._rules, ""])

    def _reasoning(self, state: ReasoningState, space: bool) -> str:
        """What comes before the body, which has no white space of its own where ``space`` is set. Reasoning holds anything but its end."""
        if self._marks is None or state == "after":
            return ""
        first, last = self._marks.open, self._marks.close
        if last in self._tokens:
            opened = "" if state == "inside" else self.mark(first)
            self._rules += [f"reasoning: {opened} ANY? {self.mark(last)}", "ANY: /(?s:.+)/"]
        else:
            opened = "" if state == "inside" else f"\\s*{_literal(first)}"
            self._rules.append(f"reasoning[lazy]: /{opened}(?s:.*){_literal(last)}/")
        reasoned = 'reasoning ("\\n" "\\n"?)?' if space else "reasoning"
        return reasoned if state == "inside" else f"({reasoned})?"

    def _text_or(self, called: str) -> str:
        """A text that is no call and opens no reasoning, or calls, which a text may precede."""
        begin = self._form.begin
        unlike = [] if self._marks is None else [f"~/\\s*{_literal(self._marks.open)}(?s:.*)/"]
        first = next((mark for mark in self._form.marks if begin.startswith(mark) and mark in self._tokens), None)
        if not begin:
            self._rules.append(" & ".join(["TEXT: /(?s:.*)/", '~/\\s*\\{\\s*"name"(?s:.*)/', *unlike]))
            return f"TEXT | {called}"
        if first is not None:  # which no text holds
            self._rules.append(" & ".join(["TEXT: /(?s:.+)/", *unlike]))
            return f"TEXT? ({called})?"
        self._rules.append(" & ".join(["TEXT: /(?s:.*)/", f"~/(?s:.*){_literal(begin)}(?s:.*)/", *unlike]))
        self._rules.append(" & ".join([f"until[lazy]: /(?s:.*){_literal(begin)}/", *unlike]))
        return "TEXT | until calls"

    def _calls(self, functions: Sequence[Function], several: bool) -> None:
        form = self._form
        if form.listed:
            self._rules.append(f'calls: " "? "[" call {"(" + _text(", ") + " call)*" if several else ""} "]"')
        elif form.written == "named":
            again = self.mark(form.again or form.begin)
            between = '"\\n"? ' if form.again else ""
            self._rules += [
                f"calls: closed {f'({between}{again} closed)*' if several else ''} {self.mark(form.close)}",
                f"closed: call {self.mark(form.end)}",
            ]
        elif form.end:
            more = f'("\\n" {self.mark(form.begin)} closed)*' if several else ""
            self._rules += [f"calls: closed {more}", f'closed: "\\n" call "\\n" {self.mark(form.end)}']
        else:
            self._rules.append("calls: call")
        self._call(functions)

    def _call(self, functions: Sequence[Function]) -> None:
        form = self._form
        self._rules.append("call: " + " | ".join(f"call_{place}" for place in range(len(functions))))
        for place, function in enumerate(functions):
            if form.written == "elements":
                self._elements(place, function)
                continue
            if form.written == "named":
                head, tail = f"{self.mark(form.head)} {_text(function.name)} {self.mark(form.separator)}", ""
            else:
                head = _text(f'{{"name": {json.dumps(function.name, ensure_ascii=False)}, "{form.arguments}": ')
                tail = ' "}"'
            self._rules += [f"call_{place}: {head} arguments_{place}{tail}", f"arguments_{place}: {_json(function.parameters)}"]
        if self._open:
            self._rules += ['further: "<parameter=" /[^<>\\n]+/ ">\\n" further_text "\\n"', f"further_text[lazy]: {_ended('.*')}"]

    def _elements(self, place: int, function: Function) -> None:
        """A call as elements: the parameters in the order of the schema, then others where it allows them."""
        schema = function.parameters
        properties, required = schema.get("properties", {}), schema.get("required", ())
        rules = []
        for number, (name, value) in enumerate(properties.items()):
            rule = f"parameter_{place}_{number}"
            opening = _text(f"<parameter={name}>\n")
            self._rules += [f"{rule}: {opening} value_{place}_{number}", *self._value(f"value_{place}_{number}", value, schema)]
            rules.append(rule if name in required else f"{rule}?")
        if schema.get("additionalProperties", True) is not False:
            rules.append("further*")
            self._open = True
        opening = _text(f"<function={function.name}>\n")
        self._rules.append(f"call_{place}: {opening} {' '.join(rules)} {_text('</function>')}")

    @staticmethod
    def _value(rule: str, schema: Any, whole: Mapping[str, Any]) -> list[str]:
        """A parameter's value and the end of its element. Of what a schema says of a text its words, lengths and pattern are kept."""
        if not is_text(schema):
            shared = {key: whole[key] for key in ("$defs", "definitions") if key in whole}
            inner = {**shared, **schema} if isinstance(schema, Mapping) else schema
            return [f"{rule}: {rule}_json {_text(_PARAMETER_END)}", f"{rule}_json: {_json(inner)}"]
        words = [schema["const"]] if "const" in schema else schema.get("enum")
        if words:
            return [f"{rule}: ({' | '.join(map(_text, words))}) {_text(_PARAMETER_END)}"]
        least, most = schema.get("minLength", 0), schema.get("maxLength", "")
        texts = [f".{{{least},{most}}}"] if least or most != "" else []
        if isinstance(pattern := schema.get("pattern"), str):
            texts.append(_whole(pattern))
        return [f"{rule}_text[lazy]: {' & '.join(map(_ended, texts or ['.*']))}", f'{rule}: {rule}_text "\\n"']

    def mark(self, text: str) -> str:
        """A text of the form, in which marks that are control tokens are those."""
        known = [mark for mark in self._form.marks if mark in self._tokens]
        if self._marks is not None:
            known += [mark for mark in (self._marks.open, self._marks.close) if mark in self._tokens]
        parts = re.split("(" + "|".join(map(re.escape, known)) + ")", text) if known else [text]
        return " ".join(f"<[{self._tokens[part]}]>" if part in known else _text(part) for part in parts if part)


def _json(schema: Any) -> str:
    plain = _bare(schema)
    return "%json " + json.dumps({**plain, "x-guidance": _AS_DUMPED} if isinstance(plain, dict) else plain)


def _bare(schema: Any) -> Any:
    """A schema without its texts for people, which would only make the grammar larger. A property of such a name is a schema, no text."""
    if isinstance(schema, Mapping):
        kept = {key: value for key, value in schema.items() if not (key in _FOR_PEOPLE and isinstance(value, str))}
        return {key: value if key in _VALUES else _bare(value) for key, value in kept.items()}
    return [_bare(each) for each in schema] if isinstance(schema, list | tuple) else schema


def _ended(text: str) -> str:
    """A regular expression of a text and of the end of its element, of which the first counts."""
    return f"/(?s:{text})\\n<\\/parameter>/"


def _whole(pattern: str) -> str:
    """A schema's pattern, which a text need only hold, as regular expression of the whole text."""
    inner = pattern.removeprefix("^")
    before, after = "" if pattern.startswith("^") else ".*", ".*"
    if inner.endswith("$") and not inner.endswith("\\$"):
        inner, after = inner[:-1], ""
    inner = re.sub(r"(?<!\\)/", r"\\/", inner)
    return f"{before}(?:{inner}){after}"


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _literal(text: str) -> str:
    """``text`` in a regular expression of Lark."""
    return re.escape(text).replace("/", "\\/")
