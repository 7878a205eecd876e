"""Task ``keywords``: what a text is about, in a few words."""

import json

import attrs

from llmasos_hookspecs import Component, RequestError, hookimpl

#: Enough for two words, and few enough that a list always fits its token limit.
_LONGEST = 24


@attrs.frozen(kw_only=True)
class Options:
    characters: int = attrs.field(default=4000, metadata={"help": "How much of the beginning of a text is read."})


@attrs.frozen(kw_only=True)
class Inputs:
    text: str = attrs.field(metadata={"help": "The text."})
    count: int = attrs.field(default=3, metadata={"help": "How many keywords, 1 to 8."})


@attrs.frozen(kw_only=True)
class Output:
    keywords: tuple[str, ...]

    def __str__(self) -> str:
        return ", ".join(self.keywords)


class Keywords:
    """Name what a text is about."""

    inputs = Inputs
    output = Output

    def __init__(self, options):
        self.options = options

    def run(self, model, inputs):
        if not 1 <= inputs.count <= 8:
            raise RequestError(f"count is {inputs.count!r}, and it must be a whole number from 1 to 8.")
        if not inputs.text.strip():
            raise RequestError("text is empty; give one to find keywords of.")
        text = inputs.text[: min(self.options.characters, model.context_length // 4)]
        prompt = f"Text: {' '.join(text.split())}\nThe {inputs.count} keywords of the text, as a JSON list:"
        # A regular expression rather than a schema: each word is bounded, so the list always fits the limit.
        word = rf'"[\p{{L}}\p{{N}}][\p{{L}}\p{{N}} -]{{0,{_LONGEST - 1}}}"'
        form = rf" \[{', '.join([word] * inputs.count)}\]"
        answer = model.generate(prompt, regex=form, max_new_tokens=min(inputs.count * (_LONGEST * 4 + 4) + 4, model.context_length // 2))
        try:
            return Output(keywords=tuple(keyword.strip() for keyword in json.loads(answer.text)))
        except ValueError:
            raise RequestError(f"The model gave no list of keywords within its context: {answer.text[:80]!r}.") from None


@hookimpl
def llmasos_component():
    return Component(
        summary="Name what a text is about, in a few words.",
        options=Options,
        examples=('llmasos task keywords --text "Otters live in rivers and eat fish." --count 2',),
    )


@hookimpl
def llmasos_create_task(options, context):
    return Keywords(options)
