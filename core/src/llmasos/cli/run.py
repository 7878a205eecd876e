"""``llmasos run``: continue a text."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import attrs
import typer

from llmasos.cli import options as o
from llmasos.cli.console import print_json, print_note, print_result
from llmasos_hookspecs import RequestError


def run(
    prompt: Annotated[str | None, typer.Argument(help="The text to continue; left out or -: standard input.")] = None,
    model: o.ModelOption = None,
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
    logprobs: o.LogprobsOption = None,
    prompt_lookup: o.PromptLookupOption = None,
    chat: Annotated[bool, typer.Option("--chat", help="Ask through the model's chat template rather than continue the text.")] = False,
    config: o.ConfigOption = None,
    overrides: o.SetOption = None,
    loader: o.LoaderOption = None,
    scheduler: o.SchedulerOption = None,
    as_json: o.JsonOption = False,
    quiet: o.QuietOption = False,
) -> None:
    """Continue a text, streaming."""
    text = read_text(prompt)
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
    asked: Any = [{"role": "user", "content": text}] if chat else text
    pipeline, chosen = o.open_pipeline(config, overrides, model=model, loader=loader, scheduler=scheduler, quiet=quiet)
    with pipeline:
        if as_json:
            if n is None:
                print_json(attrs.asdict(chosen.generate(asked, **sampling)))
            else:
                print_json([attrs.asdict(generation) for generation in chosen.generate(asked, n=n, **sampling)])
            return
        if n is not None:
            for number, generation in enumerate(chosen.generate(asked, n=n, **sampling), 1):
                if number > 1:
                    print_result()
                print_result(f"[{number}] {generation.text}")
            return
        for piece in chosen.stream(asked, **sampling):
            print_result(piece, end="")
        print_result()
        if not quiet and sys.stderr.isatty():
            usage = chosen.usage()
            print_note(f"[{usage['decode_rate']:.0f} tokens/s, {chosen!r}]")


def read_text(argument: str | None) -> str:
    """The argument, or all of standard input where it is missing or ``-``, without the line break that shells put at its end."""
    if argument not in (None, "-"):
        assert argument is not None
        return argument
    if sys.stdin.isatty():
        print_note("Reading the text from the keyboard; end it with Ctrl-D.")
    try:
        return sys.stdin.read().removesuffix("\n")
    except UnicodeDecodeError as error:
        raise RequestError(f"Standard input is not in UTF-8 ({error.reason} at byte {error.start}); convert it first.") from error
