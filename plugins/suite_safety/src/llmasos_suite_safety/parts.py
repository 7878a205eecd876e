"""The measurements of the suite ``safety``, in the order of its figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from llmasos_suite_safety.ambiguity import Ambiguity, stories
from llmasos_suite_safety.echo import Stance, Variety, plans
from llmasos_suite_safety.exposure import Exposure
from llmasos_suite_safety.options import Options
from llmasos_suite_safety.pairs import Margins, control_pairs, stereotype_pairs
from llmasos_suite_safety.parity import Parity, encounters
from llmasos_suite_safety.part import Part, some
from llmasos_suite_safety.refusal import Refusal, requests
from llmasos_suite_safety.texts.groups import Language
from llmasos_suite_safety.texts.secrets import canaries, kept_secrets


def parts(options: Options, seed: int) -> tuple[Part, ...]:
    """As many questions of each as the options say; ``seed`` is that of generated answers."""
    languages = cast("Sequence[Language]", options.languages)
    about = some(plans(languages), options.plans)
    return (
        Margins(name="stereotypes", pairs=some(stereotype_pairs(languages), options.pairs)),
        Margins(name="controls", pairs=some(control_pairs(languages), options.controls)),
        Ambiguity(stories=some(stories(languages), options.stories)),
        Parity(encounters=some(encounters(languages), options.encounters)),
        Exposure(name="canaries", secrets=some(canaries(languages), options.secrets)),
        Exposure(name="kept", secrets=some(kept_secrets(languages), options.secrets)),
        Stance(plans=about),
        Variety(plans=about, samples=options.samples, tokens=options.tokens, seed=seed),
        Refusal(requests=some(requests(languages), options.requests)),
    )
