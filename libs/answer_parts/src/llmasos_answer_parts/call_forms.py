"""The forms in which models write calls. A model was trained on the one that its chat template writes."""

from __future__ import annotations

from typing import Any, Final, Literal

import attrs


@attrs.frozen(kw_only=True)
class CallForm:
    """How calls are written.

    Attributes:
        name: of the form.
        begin: what comes before a call, or before the list of calls; empty: the call is the whole answer.
        end: what comes after a call.
        written: what a call is: a JSON object with ``name`` and the arguments; a name and then an object of the arguments; or elements
            with the name and each argument, whose texts are no JSON; or a message of its own, as the text and the reasoning are.
        arguments: an object's key for the arguments.
        head, separator: what comes before and after a name that stands by itself.
        listed: calls are one JSON list.
        again: what comes before each further call, where that is not ``begin``.
        close: what comes after the last call, where there is ``again``.
        several: an answer may have more than one call.
        marks: the parts of all these that a vocabulary may have as control tokens.
    """

    name: str
    begin: str
    end: str = ""
    written: Literal["object", "named", "elements", "messages"] = "object"
    arguments: str = "arguments"
    head: str = ""
    separator: str = ""
    listed: bool = False
    again: str = ""
    close: str = ""
    several: bool = True
    marks: tuple[str, ...] = ()


#: Hermes, Qwen 2.5 and 3, SmolLM: each call between marks.
HERMES: Final = CallForm(name="hermes", begin="<tool_call>", end="</tool_call>", marks=("<tool_call>", "</tool_call>"))
#: Mistral, up to version 3 of its tokenizers: a list behind a control token.
MISTRAL: Final = CallForm(name="mistral", begin="[TOOL_CALLS]", listed=True, marks=("[TOOL_CALLS]",))
#: Llama 3.1 to 3.3, whose template refuses several calls.
LLAMA3: Final = CallForm(name="llama3", begin="", arguments="parameters", several=False)

#: Mistral, from version 11 of its tokenizers.
MISTRAL_NAMED: Final = CallForm(
    name="mistral-named", begin="[TOOL_CALLS]", written="named", separator="[ARGS]", marks=("[TOOL_CALLS]", "[ARGS]")
)
_DEEPSEEK: Final[dict[str, Any]] = {
    "begin": "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>",
    "written": "named",
    "again": "<｜tool▁call▁begin｜>",
    "close": "<｜tool▁calls▁end｜>",
    "marks": tuple(f"<｜tool▁{part}｜>" for part in ("calls▁begin", "call▁begin", "sep", "call▁end", "calls▁end")),
}
#: DeepSeek V3 and R1.
DEEPSEEK: Final = CallForm(
    name="deepseek", head="function<｜tool▁sep｜>", separator="\n```json\n", end="\n```<｜tool▁call▁end｜>", **_DEEPSEEK
)
#: DeepSeek from V3.1 on.
DEEPSEEK_NAMED: Final = CallForm(name="deepseek-named", separator="<｜tool▁sep｜>", end="<｜tool▁call▁end｜>", **_DEEPSEEK)
#: Qwen's coders: elements in the marks of Hermes.
QWEN_CODER: Final = CallForm(
    name="qwen-coder", begin="<tool_call>", end="</tool_call>", written="elements", marks=("<tool_call>", "</tool_call>")
)

#: gpt-oss.
HARMONY: Final = CallForm(
    name="harmony",
    begin="<|channel|>commentary to=functions.",
    written="messages",
    several=False,
    marks=tuple(f"<|{mark}|>" for mark in ("start", "channel", "message", "constrain", "end", "call", "return")),
)


def call_form_of(template: str) -> CallForm | None:
    """The form that a chat template which writes tools has; None where it is none of those that are known.

    Marks that other forms share, as ``<tool_call>`` of GLM with ``<arg_key>`` in it, do not make them these.
    """
    if HERMES.begin in template:
        if "<arg_key>" in template:
            return None
        return QWEN_CODER if "<function=" in template and "<parameter=" in template else None if "<function=" in template else HERMES
    if MISTRAL.begin in template:
        return None if "[CALL_ID]" in template else MISTRAL_NAMED if "[ARGS]" in template else MISTRAL
    if DEEPSEEK.again in template:
        return DEEPSEEK if "```json" in template else DEEPSEEK_NAMED
    if "<|channel|>" in template and "functions." in template:
        return HARMONY
    if "<|start_header_id|>" in template and '"parameters"' in template:
        return LLAMA3
    return None
