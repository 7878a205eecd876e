"""How a model's answers are to be read, and what they may be where tools are given: its chat template tells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs

from llmasos_answer_parts.call_forms import HARMONY, HERMES, CallForm, call_form_of
from llmasos_answer_parts.functions import choice_of, functions_of
from llmasos_answer_parts.grammar import grammar_of
from llmasos_answer_parts.harmony import HarmonyReader
from llmasos_answer_parts.reader import AnswerReader
from llmasos_answer_parts.reasoning import Marks, ReasoningState, state_of
from llmasos_chat_templates.messages import ChatOptions, check_depth
from llmasos_chat_templates.template import ChatTemplate
from llmasos_hookspecs import Constraint, Prompt, RequestError, SamplingParams, Tokenizer, TokenPrompt

#: Last tokens of a prompt that are looked at for reasoning that it opens or closes: marks are short, and often one token.
_END: Final = 16


@attrs.frozen(kw_only=True)
class AnswerForm:
    """The form of one answer.

    Attributes:
        calls: of its calls; None: it has none.
        names: functions that may be called.
        marks: of its reasoning; None: it has none.
        state: where it begins.
        values: of each function, its parameters whose values are JSON.
    """

    calls: CallForm | None = None
    names: tuple[str, ...] = ()
    marks: Marks | None = None
    state: ReasoningState = "after"
    values: Mapping[str, frozenset[str]] = attrs.field(factory=dict)

    @property
    def reasons(self) -> bool:
        """Whether the answer may have reasoning."""
        return self.marks is not None or self.calls is HARMONY

    def reader(self) -> AnswerReader | HarmonyReader | None:
        """What reads the answer; None where all of it is text."""
        if self.calls is HARMONY:
            return HarmonyReader(self.names)
        if self.calls is None and (self.marks is None or self.state == "after"):
            return None
        return AnswerReader(self.calls, self.names, self.marks, self.state, self.values)


PLAIN: Final = AnswerForm()


class AnswerForms:
    """The forms of a model's answers. A model without a chat template answers in text alone."""

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate | None) -> None:
        self._tokenizer = tokenizer
        self._template = template
        self._marks = None if template is None else template.reasoning_marks
        self._calls: CallForm | None = None
        if template is not None:  # tools that the template does not write are written as Hermes has them
            self._calls = call_form_of(template.source) if template.writes_tools else HERMES

    def of(
        self, prompt: Prompt | TokenPrompt, tokens: Sequence[int], options: ChatOptions, sampling: SamplingParams
    ) -> tuple[AnswerForm, SamplingParams]:
        """The form of the answer to a prompt of ``tokens``, and how it is sampled.

        Where the request constrains the answer itself and gives no tools, all of the answer is text.

        Raises:
            RequestError: the tools or the choice of one are malformed, or the template's form of calls is not known.
        """
        if isinstance(prompt, TokenPrompt) and (options.tools or options.template_arguments or options.reasoning is not None):
            raise RequestError("tools, reasoning and template_arguments belong to chat messages, and the prompt is token ids.")
        if isinstance(prompt, str | TokenPrompt) or self._template is None:
            return PLAIN, sampling
        marks = self._marks
        if not options.tools:
            choice_of(options.tool_choice, ())
            if self._calls is HARMONY and sampling.constraint is None:  # a text is a message among others there
                return AnswerForm(calls=HARMONY, state="before"), self._with_marks(sampling, self._control_tokens(None))
            if marks is None or sampling.constraint is not None:
                return PLAIN, sampling
            return AnswerForm(marks=marks, state=self._state(tokens, marks)), self._with_marks(sampling, self._control_tokens(marks))
        functions = functions_of(options.tools)
        choice = choice_of(options.tool_choice, functions)
        form = AnswerForm(
            calls=self._calls,
            names=tuple(function.name for function in functions if choice.allowed is None or choice.allows(function.name)),
            marks=marks,
            state="before" if self._calls is HARMONY else "after" if marks is None else self._state(tokens, marks),
            values={function.name: function.values() for function in functions},
        )
        control_tokens = self._control_tokens(marks)
        if self._calls is None or not options.constrain_tools:
            if options.constrain_tools:
                raise RequestError(
                    "The chat template of this model writes calls of tools in a form that is not known here (known are those of Hermes, "
                    "Llama 3, Mistral, DeepSeek, Qwen's coders and gpt-oss), so they cannot be constrained; give constrain_tools = False "
                    "to get them as text.",
                    "tools",
                )
            return form, self._with_marks(sampling, control_tokens)
        grammar = grammar_of(
            self._calls,
            functions,
            choice,
            several=options.parallel_tool_calls,
            marks=marks,
            state=form.state,
            answer=_schema(sampling.constraint),
            control_tokens=control_tokens,
        )
        return form, attrs.evolve(self._with_marks(sampling, control_tokens), constraint=Constraint("grammar", grammar))

    def _state(self, tokens: Sequence[int], marks: Marks) -> ReasoningState:
        return state_of(self._tokenizer.decode(tokens[-_END:], skip_special=False), marks)

    def _control_tokens(self, marks: Marks | None) -> Mapping[str, int]:
        """The marks that are control tokens, with their ids."""
        calls = () if self._calls is None else self._calls.marks
        found = {}
        for mark in filter(None, (*calls, *(() if marks is None else (marks.open, marks.close)))):
            for token in self._tokenizer.encode(mark, special=False):
                if self._tokenizer.is_special(token) and self._tokenizer.token_bytes(token) == mark.encode():
                    found[mark] = token
        return found

    @staticmethod
    def _with_marks(sampling: SamplingParams, control_tokens: Mapping[str, int]) -> SamplingParams:
        """Sampling whose text holds marks that are control tokens too."""
        return attrs.evolve(sampling, skip_special_tokens=False) if control_tokens else sampling


def _schema(constraint: Constraint | None) -> Any:
    """The JSON Schema of an answer that is no call. Raises ``RequestError`` where it must have another form."""
    if constraint is None:
        return None
    if constraint.kind != "json_schema" or isinstance(constraint.value, str):
        raise RequestError(f"An answer cannot follow a {constraint.kind.replace('_', ' ')} and call tools; leave out one of them.", "tools")
    check_depth(constraint.value, "schema")
    return constraint.value
