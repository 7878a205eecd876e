"""``llmasos run --image``: a model is asked about the images of files."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from llmasos_hookspecs.testing import image_checkpoint

from .conftest import CommandLine
from .fork_server import with_plugins

LOADER = """
    from llmasos_hookspecs import Component, hookimpl
    from llmasos_hookspecs.testing import ReferenceImageEngine

    @hookimpl
    def llmasos_component(): return Component(summary="Images, row by row.")

    @hookimpl
    def llmasos_load(checkpoint, context): return ReferenceImageEngine(checkpoint, context.limits)
"""


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "a photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)).save(path)
    return path


def test_a_question_has_the_images_of_files_and_goes_on_with_them(
    cli: CommandLine, picture: Path, tmp_path: Path, new_home: Callable[[Path], Path]
) -> None:
    """Their positions are counted; --continue asks with them again."""
    site, folder = tmp_path / "site", tmp_path / "seeing"
    (site / "seeing_run-1.0.dist-info").mkdir(parents=True)
    (site / "seeing_run.py").write_text(textwrap.dedent(LOADER))
    (site / "seeing_run-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: seeing-run\nVersion: 1.0\n")
    (site / "seeing_run-1.0.dist-info" / "entry_points.txt").write_text("[llmasos.loaders]\nseeing = seeing_run\n")
    image_checkpoint(folder)
    how = with_plugins(tmp_path) | {"env": {**cli.env, "LLMASOS_HOME": str(new_home(tmp_path / "home"))}}
    run = partial(cli.server.said, "run", "-m", str(folder), "--loader", "seeing", "-n", "3", "--json", folder=cli.folder, **how)
    asked = run("What is it?", "--image", str(picture), "--image", str(picture))
    assert asked.returncode == 0, asked.stderr
    template = len("user\n\n assistant\n") + 3 + len("What is it?")
    first = json.loads(asked.stdout)
    assert abs(first["prompt_tokens"] - (2 * 9 + template)) <= 2
    again = json.loads(run("And now?", "--continue").stdout)
    assert again["conversation"] == first["conversation"]
    assert again["prompt_tokens"] > first["prompt_tokens"] + len("And now?")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("What is it?", "--image", "PICTURE"), "reads text alone, and the messages hold an image"),
        (("What is it?", "--image", "there is none.png"), "The image there is none.png cannot be read"),
        (("What is it?", "--raw", "--image", "PICTURE"), "--raw continues a plain text"),
    ],
)
def test_what_cannot_be_asked_is_one_sentence(words: tuple[str, ...], said: str, cli: CommandLine, model: list[str], picture: Path) -> None:
    """On standard error, with the code of wrong use."""
    done = cli("run", *model, "--no-log", *(picture if word == "PICTURE" else word for word in words))
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
