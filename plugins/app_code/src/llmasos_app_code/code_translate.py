"""Task ``code_translate``: the same program in another programming language."""

from __future__ import annotations

import attrs

from llmasos_app_code.fences import fenced
from llmasos_app_code.languages import canonical
from llmasos_app_code.writing import Written, write_code
from llmasos_hookspecs import Component, Context, NoOptions, RequestError, Task, TaskModel, hookimpl
from llmasos_task_kit.emptiness import refuse_empty
from llmasos_task_kit.prompting import user_prompt, without_control_tokens


@attrs.frozen(kw_only=True)
class Inputs:
    """A program, and the language it should be in."""

    code: str = attrs.field(metadata={"help": "The program."})
    target: str = attrs.field(metadata={"help": "The programming language to translate into."})
    source: str = attrs.field(default="", metadata={"help": "The language it is in; empty: the model sees for itself."})
    check: bool = attrs.field(default=False, metadata={"help": "Parse the result (it is never run), and ask once more where that fails."})
    max_new_tokens: int = attrs.field(default=512, metadata={"help": "Tokens of code at most."})


class CodeTranslate:
    """Write a program again in another programming language."""

    inputs = Inputs
    output = Written

    def run(self, model: TaskModel, inputs: Inputs) -> Written:
        refuse_empty(inputs, "code")
        if not inputs.target.strip():
            raise RequestError('target is empty; name the programming language to translate into, such as "rust".')
        source = canonical(inputs.source) if inputs.source.strip() else ""
        target = canonical(inputs.target)
        shown = without_control_tokens(fenced(inputs.code, source), model.tokenizer)
        words = f"Translate this {source} code to {target}." if source else f"Translate this code to {target}."
        prompt = user_prompt(f"{words} Keep its names and behaviour. Reply with one code block and nothing else.\n\n{shown}")
        return write_code(model, prompt, target, check=inputs.check, max_new_tokens=inputs.max_new_tokens)


@hookimpl
def llmasos_component() -> Component:
    return Component(
        summary="Translate a program into another programming language.",
        options=NoOptions,
        examples=(
            "llmasos task code_translate --code @sum.py --source python --target rust",
            'model.run("code_translate", code="print(1)", target="javascript").code',
        ),
    )


@hookimpl
def llmasos_create_task(options: NoOptions, context: Context) -> Task:
    return CodeTranslate()
