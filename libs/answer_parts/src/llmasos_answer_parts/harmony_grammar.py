"""What an answer of gpt-oss with tools may be, as a Lark grammar of llguidance: see ``grammar`` and ``harmony``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llmasos_answer_parts.functions import Function, ToolChoice


def harmony_grammar(
    functions: Sequence[Function],
    choice: ToolChoice,
    *,
    mark: Callable[[str], str],
    literal: Callable[[str], str],
    schema: Callable[[Any], str],
    answer: Any = None,
    control_tokens: Mapping[str, int],
) -> str:
    """Reasoning, which may be as long as it likes; then a text, or one call, before which there may be a text where it need not be made.

    Args:
        functions, choice, answer, control_tokens: as ``grammar_of`` has them.
        mark: writes a text of the form, in which marks that are control tokens are those.
        literal: writes a text in a regular expression.
        schema: writes a value of a JSON Schema.
    """
    offered = [function for function in functions if choice.allows(function.name)]
    next_message = mark("<|start|>assistant")
    rules = []
    for name, channel in (("reasoning", "analysis"), ("preamble", "commentary")):
        if "<|end|>" in control_tokens:
            rules.append(f"{name}: {mark(f'<|channel|>{channel}<|message|>')} ANY? {mark('<|end|>')} {next_message}")
        else:
            header = literal(f"<|channel|>{channel}<|message|>")
            rules.append(f"{name}[lazy]: /{header}(?s:.*){literal('<|end|><|start|>assistant')}/")
    final = mark("<|channel|>final<|message|>") + (" TEXT" if answer is None else " answer")
    rules.append("TEXT: /(?s:.*)/" if "<|end|>" not in control_tokens else "TEXT: ANY?\nANY: /(?s:.+)/")
    if answer is not None:
        rules.append(f"answer: {schema(answer)}")
    rules.append("call: " + " | ".join(f"call_{place}" for place in range(len(offered))))
    for place, function in enumerate(offered):
        header = mark(f"<|channel|>commentary to=functions.{function.name} <|constrain|>json<|message|>")
        rules += [f"call_{place}: {header} arguments_{place}", f"arguments_{place}: {schema(function.parameters)}"]
    body = "call" if choice.mode == "required" else f"({final} | preamble? call)"
    return "\n".join([f"start: reasoning? {body}", *rules, ""])
