"""``AcceleratorConformance`` passes right accelerators and catches wrong ones, each by the test that is meant to."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from typing import Any

import attrs
import pytest
from hookspecs.tests.planted_faults import one_for_each_check

PLUGIN = """
import attrs
import numpy as np
from llmasos_hookspecs import Component, QuantizedTensor, StagePlan, hookimpl

@attrs.frozen
class Options:
    decimals: int = 1

def plan(decoder, options, state):
    return StagePlan({planned})

@hookimpl
def llmasos_component():
    return Component(summary="Round norm weights.", options=Options, stage="structure", plan=plan)

def rounded(tensor, options):
    return np.round(tensor, options.decimals)

@hookimpl
def llmasos_accelerate(checkpoint, output, options, context):
{body}
"""

RIGHT = """
with context.writer(checkpoint, output) as writer:
    for name in checkpoint.names():
        tensor = checkpoint.tensor(name)
        if "norm" in name:
            writer.add(name, rounded(tensor, options))
        else:
            writer.skip(name, "it is no norm")
            writer.add(name, tensor)
return writer.result(rounded="norms")
"""

#: Drops the last layer, as ``planned`` says.
DROPS = """
last = checkpoint.decoder.num_layers - 1
with context.writer(checkpoint, output) as writer:
    {config}
    for name in checkpoint.names():
        if not name.startswith(f"model.layers.{{last}}."):
            writer.add(name, checkpoint.tensor(name))
return writer.result()
"""
DROPPED = "decoder=attrs.evolve(decoder, num_layers=decoder.num_layers - 1)"


def accelerator(body: str = RIGHT, planned: str = "") -> str:
    return PLUGIN.format(body=textwrap.indent(textwrap.dedent(body).strip(), "    "), planned=planned)


@attrs.frozen
class Wrong:
    """A defective plugin, and the standard tests that must fail for it."""

    source: str
    caught_by: tuple[str, ...]


WRONG = {
    "rounds in place": Wrong(
        accelerator(RIGHT.replace("rounded(tensor, options)", "np.round(tensor, options.decimals, out=tensor)")),
        ("test_never_touches_its_input",),
    ),
    "writes into the input's folder": Wrong(
        accelerator("(checkpoint.path / 'notes.txt').write_text('seen')\n" + RIGHT), ("test_never_touches_its_input",)
    ),
    "overwrites the input's config": Wrong(
        accelerator("(checkpoint.path / 'config.json').write_text('{}')\n" + RIGHT), ("test_never_touches_its_input",)
    ),
    "draws from a generator without a seed": Wrong(
        accelerator(RIGHT.replace("rounded(tensor, options)", "tensor + np.random.default_rng().normal(0, 1, tensor.shape).astype('f4')")),
        ("test_same_seed_same_bits",),
    ),
    "forgets a tensor": Wrong(
        accelerator(RIGHT.replace('if "norm" in name:', 'if "k_proj.weight" in name: continue\n        if "norm" in name:')),
        ("test_writes_a_checkpoint_that_loads",),
    ),
    "drops a layer and says nothing in the config": Wrong(
        accelerator(DROPS.format(config="pass"), DROPPED), ("test_writes_a_checkpoint_that_loads", "test_plan_agrees_with_the_run")
    ),
    "plans what it does not do": Wrong(accelerator(planned=DROPPED), ("test_plan_agrees_with_the_run",)),
    "plans a problem that there is not": Wrong(accelerator(planned="problems=('No.',)"), ("test_plan_agrees_with_the_run",)),
    "writes numbers that are none": Wrong(
        accelerator(
            RIGHT.replace("rounded(tensor, options)", "tensor / np.zeros(1, 'f4')").replace("with", "np.seterr(all='ignore')\nwith", 1)
        ),
        ("test_writes_a_checkpoint_that_loads",),
    ),
    "changes nothing": Wrong(accelerator(RIGHT.replace("rounded(tensor, options)", "tensor")), ("test_reports_what_it_did",)),
    "claims tensors that it left alone": Wrong(
        accelerator(
            RIGHT.replace("return writer.result", "return attrs.evolve(writer.result").replace('"norms")', '"norms"), touched=("x",))')
        ),
        ("test_reports_what_it_did",),
    ),
    "skips without a reason": Wrong(accelerator(RIGHT.replace("it is no norm", "")), ("test_reports_what_it_did",)),
    "skips what it changed": Wrong(
        accelerator(RIGHT.replace('if "norm" in name:', 'if "norm" in name:\n            writer.skip(name, "left")')),
        ("test_reports_what_it_did",),
    ),
    "reports what is no plain data": Wrong(accelerator(RIGHT.replace('"norms"', "np.zeros(3)")), ("test_reports_what_it_did",)),
    "returns nothing": Wrong(accelerator(RIGHT.replace("return writer", "writer")), ("test_same_seed_same_bits",)),
    "makes the output by hand before it reads": Wrong(
        accelerator("output.mkdir()\ntry:\n" + textwrap.indent(RIGHT.replace("output)", "output / 'inner')"), "    ") + "\nfinally: pass"),
        ("test_failure_leaves_no_output", "test_writes_a_checkpoint_that_loads"),
    ),
    "swallows damaged tensors": Wrong(
        accelerator(
            RIGHT.replace(
                "tensor = checkpoint.tensor(name)",
                "tensor = np.zeros(checkpoint.shape(name), 'f4')\n"
                "        try: tensor = checkpoint.tensor(name)\n        except Exception: pass",
            )
        ),
        ("test_failure_leaves_no_output",),
    ),
    "leaves its notes beside the output": Wrong(
        accelerator("(output.parent / 'calibration.npy').write_bytes(b'x')\n" + RIGHT), ("test_writes_a_checkpoint_that_loads",)
    ),
    "writes whole numbers": Wrong(
        accelerator(RIGHT.replace("rounded(tensor, options)", "rounded(tensor, options).astype('i4')")), ("test_same_seed_same_bits",)
    ),
    "edits the config when the writer has closed": Wrong(
        accelerator(
            RIGHT.replace(
                "return writer",
                "(output / 'config.json').write_text(\n    (output / 'config.json').read_text().replace('silu', 'gelu'))\nreturn writer",
            )
        ),
        ("test_writes_a_checkpoint_that_loads", "test_same_seed_same_bits"),
    ),
    "adds a file when the writer has closed": Wrong(
        accelerator(RIGHT.replace("return writer", "(output / 'notes.txt').write_text('x')\nreturn writer")),
        ("test_writes_a_checkpoint_that_loads",),
    ),
    "writes beside its own module": Wrong(
        accelerator("from pathlib import Path\nPath(__file__).with_suffix('.notes').write_text('seen')\n" + RIGHT),
        ("test_writes_nowhere_else",),
    ),
    "makes a folder far away": Wrong(
        accelerator("from pathlib import Path\nPath(__file__).with_suffix('.d').mkdir(exist_ok=True)\n" + RIGHT),
        ("test_writes_nowhere_else",),
    ),
    "fails on codes with an error of numpy's": Wrong(
        accelerator(RIGHT.replace('"norm" in name', "tensor.mean() < 5")), ("test_takes_or_refuses_quantised_input",)
    ),
}


@pytest.mark.parametrize(
    "source",
    [accelerator(), accelerator(DROPS.format(config='writer.set_config({"num_hidden_layers": last})'), DROPPED)],
    ids=["rounds", "drops a layer"],
)
def test_a_right_accelerator_passes(run_conformance: Callable[..., Any], source: str) -> None:
    """An accelerator that changes values, and one that changes shapes, pass every standard test."""
    outcomes = run_conformance("AcceleratorConformance", source)
    assert not outcomes.collection_errors
    assert not outcomes.failed, outcomes.messages
    assert not outcomes.skipped


@pytest.mark.parametrize("defect", one_for_each_check(WRONG, lambda wrong: wrong.caught_by))
def test_a_wrong_accelerator_is_caught(run_conformance: Callable[..., Any], defect: str) -> None:
    """An accelerator with one defect fails the tests that are meant to find it."""
    wrong = WRONG[defect]
    outcomes = run_conformance("AcceleratorConformance", wrong.source, only=wrong.caught_by)
    assert not outcomes.collection_errors
    assert set(wrong.caught_by) <= outcomes.failed, f"passed {sorted(outcomes.passed)}"
