"""Task ``code``: code from an instruction."""

from __future__ import annotations

import attrs

from llmasos_app_code.languages import canonical
from llmasos_app_code.writing import Written, write_code
from llmasos_hookspecs import Component, Context, NoOptions, Task, TaskModel, hookimpl
from llmasos_task_kit.emptiness import refuse_empty
from llmasos_task_kit.prompting import user_prompt, without_control_tokens


@attrs.frozen(kw_only=True)
class Inputs:
    """What the code should do, and in which language."""

    instruction: str = attrs.field(metadata={"help": "What the code should do."})
    language: str = attrs.field(default="python", metadata={"help": "The programming language."})
    check: bool = attrs.field(default=False, metadata={"help": "Parse the code (it is never run), and ask once more where that fails."})
    max_new_tokens: int = attrs.field(default=512, metadata={"help": "Tokens of code at most."})


class Code:
    """Write code from an instruction."""

    inputs = Inputs
    output = Written

    def run(self, model: TaskModel, inputs: Inputs) -> Written:
        refuse_empty(inputs, "instruction")
        language = canonical(inputs.language)
        instruction = without_control_tokens(inputs.instruction, model.tokenizer)
        prompt = user_prompt(f"Write {language} code for the following. Reply with one code block and nothing else.\n\n{instruction}")
        return write_code(model, prompt, language, check=inputs.check, max_new_tokens=inputs.max_new_tokens)


@hookimpl
def llmasos_component() -> Component:
    return Component(
        summary="Write code from an instruction.",
        options=NoOptions,
        examples=(
            'llmasos task code --instruction "a function that adds two numbers" --check',
            'model.run("code", instruction="reverse a string", language="go").code',
        ),
    )


@hookimpl
def llmasos_create_task(options: NoOptions, context: Context) -> Task:
    return Code()
