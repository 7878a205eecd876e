"""``llmasos run``: ask a model, or have it continue a text."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import attrs
import typer

from llmasos.cli import options as o
from llmasos.cli.asking import Asked, read_asked
from llmasos.cli.console import print_json, print_note, print_result
from llmasos_hookspecs import RequestError, SourceError

if TYPE_CHECKING:
    from llmasos.api.model import LanguageModel
    from llmasos_hookspecs import Generation, Prompt


def run(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[MODEL] PROMPT", help="What to ask, after the model or without one; left out or -: standard input."),
    ] = None,
    model: o.ModelOption = None,
    preset: o.PresetOption = None,
    system: o.SystemOption = None,
    continued: o.ContinueOption = False,
    resume: o.ResumeOption = None,
    image: o.ImageOption = None,
    no_log: o.NoLogOption = False,
    raw: Annotated[bool, typer.Option("--raw", help="Continue the text as it stands, without the model's chat template.")] = False,
    max_new_tokens: o.MaxNewTokensOption = None,
    max_length: o.MaxLengthOption = None,
    temperature: o.TemperatureOption = None,
    top_p: o.TopPOption = None,
    top_k: o.TopKOption = None,
    min_p: o.MinPOption = None,
    repetition_penalty: o.RepetitionOption = None,
    seed: o.SeedOption = None,
    stop: o.StopOption = None,
    n: o.NOption = None,
    schema: o.SchemaOption = None,
    regex: o.RegexOption = None,
    choices: o.ChoicesOption = None,
    grammar: o.GrammarOption = None,
    allow_cut: Annotated[
        bool, typer.Option("--allow-cut", help="A constrained answer that the token limit cut ends with 0 all the same.")
    ] = False,
    logprobs: o.LogprobsOption = None,
    prompt_lookup: o.PromptLookupOption = None,
    config: o.LongConfigOption = None,
    overrides: o.SetOption = None,
    loader: o.LoaderOption = None,
    scheduler: o.SchedulerOption = None,
    as_json: o.JsonOption = False,
    quiet: o.QuietOption = False,
) -> int:
    """Ask a model, through its chat template where it has one; with --raw, or without a template, it continues the text. Text that is piped
    in stands before the prompt. The conversation is kept (llmasos logs), and --continue goes on with the last one."""
    sampling = o.given(
        max_new_tokens=max_new_tokens,
        max_length=max_length,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        seed=seed,
        stop=stop,
        logprobs=logprobs,
        prompt_lookup=prompt_lookup,
        **o.constraints(schema, regex, choices, grammar),
    )
    if logprobs is not None and not as_json:
        raise RequestError("--logprobs prints figures for every token, as JSON only; give --json too.")
    if raw and image:
        raise RequestError("--raw continues a plain text, and an image stands in a chat message; leave one of them out.")
    if raw and (system is not None or continued or resume is not None):
        raise RequestError("--raw continues a plain text, without a system message or a conversation before it; leave one of them out.")
    asked = read_asked(words or [], lambda word: model is None and o.names_model(word, config, overrides))
    if asked.model is not None and model is not None:
        raise RequestError(f'Two models are named, "{asked.model}" and "{model}"; name one.')
    if not asked.text:
        raise RequestError("The prompt is empty; give at least one character.")
    from llmasos.cli.keeping import Talk
    from llmasos_image_input.parts import GivenImage

    images = [GivenImage.of_file(path) for path in image or ()]

    talk = Talk.begin(continued=continued, resume=resume, system=system, keep=not no_log, quiet=quiet)
    parts = {"preset": preset, "loader": loader, "scheduler": scheduler}
    found, name = o.read_config(config, overrides, model=model or asked.model, **parts)
    if not (model or asked.model or preset) and talk.before.model not in ("", found.reference_of(name)):
        found, name = o.read_config(config, overrides, model=talk.before.model, **parts)
    with o.pipeline_of(found, quiet=quiet) as pipeline:
        chosen = pipeline.models[name]
        with _first_word(asked):
            plain = raw or not (images or chosen.has_chat_template or talk.messages)
        prompt: Prompt = asked.text if plain else talk.prompt(asked.text, images, chosen, max_new_tokens or 1)

        def keep(answer: str) -> int | None:
            return talk.add(asked.text, images, answer, model=found.reference_of(name) or name, form="text" if plain else "chat")

        answers = _answer(chosen, prompt, n, sampling, keep, as_json=as_json)
        if not (as_json or quiet) and sys.stderr.isatty():
            print_note(f"[{chosen.usage()['decode_rate']:.0f} tokens/s, {chosen!r}]")
    return _cut(answers, sampling, allow_cut=allow_cut, quiet=quiet)


def _answer(
    model: LanguageModel, prompt: Prompt, n: int | None, sampling: Mapping[str, Any], keep: Callable[[str], int | None], *, as_json: bool
) -> list[Generation]:
    """Print the answer, or ``n`` answers, and keep each."""
    if n is None and not as_json:
        return [_stream(model.stream(prompt, **sampling), keep)]
    answers = [model.generate(prompt, **sampling)] if n is None else model.generate(prompt, n=n, **sampling)
    kept = [{**attrs.asdict(each), "conversation": keep(each.text)} for each in answers]
    if as_json:
        print_json(kept[0] if n is None else kept)
        return answers
    for number, each in enumerate(answers, 1):
        print_result(f"[{number}] {each.text}", end="\n" if number == n else "\n\n")
    return answers


def _stream(pieces: Generator[str, None, Generation], keep: Callable[[str], int | None]) -> Generation:
    """Print an answer as it comes, and keep it, or as much of it as was shown."""
    shown: list[str] = []
    try:
        while True:
            try:
                shown.append(next(pieces))
            except StopIteration as end:
                answer: Generation = end.value
                break
            print_result(shown[-1], end="")
        print_result()
        return answer
    finally:
        pieces.close()
        if shown:
            keep("".join(shown))


@contextlib.contextmanager
def _first_word(asked: Asked) -> Iterator[None]:
    """What is wrong with the model that the first of two words names may be that it names none."""
    try:
        yield
    except SourceError as error:
        if asked.model is None:
            raise
        raise SourceError(f"{error} Of two words the first is the model; a prompt of several words stands in quotes.") from error


def _cut(answers: Sequence[Generation], sampling: Mapping[str, Any], *, allow_cut: bool, quiet: bool) -> int:
    """The exit code: 1 where the token limit cut an answer that has to have a form, which it then has not; the user is told."""
    if all(each.finish_reason != "length" for each in answers):
        return 0
    form = next((name for name in ("schema", "regex", "choices", "grammar") if name in sampling), None)
    if form is None or allow_cut:
        if not (quiet or "max_new_tokens" in sampling or "max_length" in sampling):
            print_note(f"[Cut after {len(answers[0].tokens)} tokens; --max-new-tokens asks for more.]")
        return 0
    print_note(
        f"Error: The answer was cut after {len(answers[0].tokens)} tokens, so it does not satisfy --{form}; raise --max-new-tokens, "
        "or give --allow-cut."
    )
    return 1
