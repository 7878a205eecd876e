"""Chat templates that write tools and reasoning, each in the form that a family of models has, for tests of their answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from llmasos_hookspecs.testing.checkpoints import tiny_checkpoint
from llmasos_hookspecs.testing.tokenizer import CHAT_TEMPLATE


def _template(form: str, opened: str = "") -> str:
    """A template in whose description of tools ``form`` occurs, and which begins an answer with ``opened``."""
    return (
        "{% if tools %}<|im_start|>system\n{{ tools | tojson }}\n" + form + "<|im_end|>\n{% endif %}"
        "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}{% for call in message.tool_calls or [] %}"
        "{{ call.function.name }}{{ call.function.arguments | tojson }}{% endfor %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n" + opened + "{% endif %}"
    )


#: Form -> a chat template with the tiny checkpoints' control tokens.
TEMPLATES: Final = {
    "plain": CHAT_TEMPLATE,
    "hermes": _template("<tool_call>"),
    "mistral": _template("[TOOL_CALLS]"),
    "llama3": _template('<|start_header_id|> {"name": ..., "parameters": ...}'),
    "mistral-named": _template("[TOOL_CALLS]name[ARGS]{}"),
    "deepseek": _template("<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>name\n```json"),
    "deepseek-named": _template("<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>name<｜tool▁sep｜>{}"),
    "qwen-coder": _template("<tool_call>\n<function=name>\n<parameter=name>"),
    "harmony": _template("<|channel|>commentary to=functions.name"),
    "unknown": _template("call it"),
    # Reasoning that the model may open and that can be switched off, and reasoning that the prompt opens.
    "thinking": _template("<tool_call>", "{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"),
    "opened": _template("<tool_call>", "<think>\n{# until </think> #}"),
}


def tool_checkpoint(folder: Path, template: str, control_tokens: tuple[str, ...] = ()) -> Path:
    """Write a tiny checkpoint with one of ``TEMPLATES`` and further control tokens; returns ``folder``."""
    tiny_checkpoint(folder=folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": TEMPLATES[template]}), encoding="utf-8")
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    known = tokenizer["added_tokens"]
    first = max(token["id"] for token in known) + 1
    known += [{**known[0], "id": first + place, "content": text} for place, text in enumerate(control_tokens)]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    return folder
