"""The forms in which models write calls. A model was trained on the one that its chat template writes."""

from __future__ import annotations

from typing import Final

import attrs


@attrs.frozen(kw_only=True)
class CallForm:
    """How calls are written. A call is a JSON object with ``name`` and the arguments.

    Attributes:
        name: of the form.
        begin: what comes before a call, or before the list of calls; empty: the call is the whole answer.
        end: what comes after a call.
        arguments: the object's key for the arguments.
        listed: calls are one JSON list.
        several: an answer may have more than one call.
    """

    name: str
    begin: str
    end: str = ""
    arguments: str = "arguments"
    listed: bool = False
    several: bool = True


#: Hermes, Qwen 2.5 and 3, SmolLM: each call between marks.
HERMES: Final = CallForm(name="hermes", begin="<tool_call>", end="</tool_call>")
#: Mistral, up to version 3 of its tokenizers: a list behind a control token.
MISTRAL: Final = CallForm(name="mistral", begin="[TOOL_CALLS]", listed=True)
#: Llama 3.1 to 3.3, whose template refuses several calls.
LLAMA3: Final = CallForm(name="llama3", begin="", arguments="parameters", several=False)


def call_form_of(template: str) -> CallForm | None:
    """The form that a chat template which writes tools has; None where it is none of those that are known.

    Marks that other forms share, as ``<tool_call>`` of Qwen's coders with ``<function=`` in it, do not make them these.
    """
    if HERMES.begin in template:
        return None if "<function=" in template or "<arg_key>" in template else HERMES
    if MISTRAL.begin in template:
        return None if "[ARGS]" in template else MISTRAL
    if "<|start_header_id|>" in template and '"parameters"' in template:
        return LLAMA3
    return None
