"""Prompt lookup on copying work: tokens a second with and without it, in turn, and the same text.

python benchmarks/prompt_lookup.py [--draft 12] [--rounds 5]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Mapping

import llmasos
from llmasos.api.model import LanguageModel
from llmasos_engine.prompt_lookup import DEFAULT_DRAFT

_CODE = '''def area(width, height):
    """The area of a rectangle."""
    if width < 0 or height < 0:
        raise ValueError("A side cannot be negative.")
    return width * height


def perimeter(width, height):
    """The length of a rectangle's edge."""
    if width < 0 or height < 0:
        raise ValueError("A side cannot be negative.")
    return 2 * (width + height)
'''
_LETTER = (
    "The museum opens at nine in the morning and closes at five in the afternoon. On Mondays it stays closed. Tickets cost eight euros "
    "for adults and four euros for children. The exhibition on the ground floor shows paintings of the northern coast, and the one on the "
    "first floor shows ships, maps and instruments. Please leave large bags at the entrance."
)

_NOTICE = (
    "From: Anna Berg\nTo: all staff\nThe office in Lund will move to Storgatan 12 on the third of March. The lease of the old bilding ends "
    "on the last day of April. Everyone gets two boxes for their own things. Furniture and computors are moved by a firm. The new phone "
    "numbers are sent out in the week before the move."
)

#: Work in which much of the answer stands in the prompt; of the last one nothing does, to see what guessing in vain costs.
WORK: Mapping[str, str] = {
    "code edit": f"Repeat this Python file exactly, with no change:\n```python\n{_CODE}```",
    "rewriting": f"Repeat the following text word for word:\n{_LETTER}",
    "correcting": f"Correct the spelling of this text and change nothing else:\n{_NOTICE}",
    "summarising": f"Summarize the following text in 3 sentences.\n\n{_NOTICE}",
    "not copying": "Write a story about a fox who finds a lantern in the woods and meets an owl.",
}


def measure(model: LanguageModel, draft: int, rounds: int, tokens: int) -> dict[str, dict[str, float | bool]]:
    """For each work: decode speed-up as the ratio of median seconds, and whether the tokens are the same."""
    found: dict[str, dict[str, float | bool]] = {}
    for name, text in WORK.items():
        messages = [{"role": "user", "content": text}]
        seconds: dict[int, list[float]] = {0: [], draft: []}
        answers: dict[int, tuple[int, ...]] = {}
        for turn in range(rounds + 1):
            for guessed in (0, draft):
                began = time.perf_counter()
                answers[guessed] = model.generate(messages, max_new_tokens=tokens, prompt_lookup=guessed).tokens
                if turn:  # the first warms up and fills the prefix cache
                    seconds[guessed].append(time.perf_counter() - began)
        plain, guessing = statistics.median(seconds[0]), statistics.median(seconds[draft])
        found[name] = {"speed_up": plain / guessing, "same": answers[0] == answers[draft], "tokens": float(len(answers[0]))}
    return found


def main() -> int:
    """Print the figures as JSON; 1 where a text changed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draft", type=int, default=DEFAULT_DRAFT)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=160)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--loader", default="onnx")
    parser.add_argument("--precision", default="auto", help="of the loader onnx")
    arguments = parser.parse_args()
    loader = {"use": "onnx", "precision": arguments.precision} if arguments.loader == "onnx" else arguments.loader
    with llmasos.load_model(arguments.model, loader=loader) as model:
        found = measure(model, arguments.draft, arguments.rounds, arguments.tokens)
    print(json.dumps(found, indent=2))
    return 0 if all(each["same"] for each in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
