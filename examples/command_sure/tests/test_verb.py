"""What this command does beyond what every command must."""

import json

from command_sure.verb import make

from llmasos_hookspecs.testing import SandboxCommandContext, run_command


def test_a_probability_is_one(tmp_path):
    """The answer lies between 0 and 1, and the model that was named is the one that was asked."""
    context = SandboxCommandContext(root=tmp_path)
    done = run_command(make(context), "The sky is blue.", "--model", "mine", "--json")
    assert 0 < json.loads(done.output)["mean_probability"] <= 1
    assert context.asked == ["mine"]


def test_one_word_is_refused(tmp_path):
    """There is nothing before it from which the model could expect it."""
    done = run_command(make(SandboxCommandContext(root=tmp_path)), "Sky")
    assert (done.code, "two words" in done.error) == (2, True)
