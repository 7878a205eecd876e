"""The tasks that read images, on a model that does: from Python, from words of a command line, and over HTTP."""

from __future__ import annotations

import base64
import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import numpy as np
import pytest
from PIL import Image

import llmasos
from llmasos.cli.task_inputs import from_texts, from_words, make_inputs
from llmasos.system.discovery import Registry
from llmasos_app_text import answer, describe, extract
from llmasos_hookspecs import LLMasOSError
from llmasos_hookspecs.testing import image_checkpoint, tiny_checkpoint
from llmasos_options import json_schema

LOADER = """
    from llmasos_hookspecs import Component, hookimpl
    from llmasos_hookspecs.testing import ReferenceImageEngine

    @hookimpl
    def llmasos_component(): return Component(summary="Images, row by row.")

    @hookimpl
    def llmasos_load(checkpoint, context): return ReferenceImageEngine(checkpoint, context.limits)
"""
PIXELS = np.random.default_rng(3).integers(0, 256, (9, 12, 3), dtype=np.uint8)
SCHEMA = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "a.png"
    Image.fromarray(PIXELS).save(path)
    return path


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[llmasos.LanguageModel, str]]:
    """A tiny model that reads images, and its server's URL."""
    site = tmp_path_factory.mktemp("site")
    (site / "seeing_tasks.py").write_text(textwrap.dedent(LOADER))
    info = site / "seeing_tasks-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: seeing-tasks\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[llmasos.loaders]\nseeing = seeing_tasks\n")
    folder = tmp_path_factory.mktemp("models") / "seeing"
    image_checkpoint(folder, max_position_embeddings=1024)
    config = {"model": {"source": str(folder)}, "loader": "seeing", "server": [{"use": "http", "port": 0}]}
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site))
        with llmasos.Pipeline.from_config(config, registry=Registry()) as pipeline, llmasos.Servers(pipeline) as servers:
            yield pipeline.model, servers.endpoints[0].url


def test_tasks_answer_from_an_image(served: tuple[Any, str], picture: Path) -> None:
    """The same from an array, a path and a data: URL; another image gives another answer; the facts satisfy their schema."""
    model, url = served
    data = f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}"
    forms = [PIXELS, picture, data, Image.fromarray(PIXELS), picture.read_bytes()]
    texts = {model.run("describe", image=form, max_new_tokens=8).text for form in forms}
    assert len(texts) == 1
    assert "".join(model.pipeline.stream("describe", image=picture, max_new_tokens=8)).strip() in texts
    other = model.run("describe", image=PIXELS[::-1].copy(), max_new_tokens=8).text
    asked = [
        model.run("answer", question="What is it?", images=images, max_new_tokens=8).text for images in ([PIXELS], [PIXELS, PIXELS], [])
    ]
    assert other not in texts
    assert len(set(asked)) == 3
    found = model.run("extract", images=[picture], schema=SCHEMA, max_new_tokens=64)
    jsonschema.validate(found.data, SCHEMA)
    served_ = httpx.post(f"{url}/v1/tasks/describe", json={"inputs": {"image": data, "max_new_tokens": 8}}, timeout=60).json()
    assert served_["output"]["text"] in texts


@pytest.mark.parametrize("image", ["/etc/passwd", "https://example.org/a.png", 7, {"path": "/etc/passwd"}, None])
def test_a_clients_image_is_a_data_url(served: tuple[Any, str], image: Any) -> None:
    """No text over HTTP is ever a path, and nothing is fetched."""
    found = httpx.post(f"{served[1]}/v1/tasks/describe", json={"inputs": {"image": image}}, timeout=60)
    assert found.status_code == 400
    assert found.json()["error"]["message"].startswith("The image ")


def test_a_model_of_text_refuses_them(tmp_path: Path) -> None:
    """In the sentence of every message with an image; without one they work as ever."""
    tiny_checkpoint(folder=tmp_path / "tiny", max_position_embeddings=1024)
    with llmasos.load_model(str(tmp_path / "tiny"), loader="onnx") as model:
        for task, inputs in (("describe", {"image": PIXELS}), ("answer", {"question": "?", "images": [PIXELS]})):
            with pytest.raises(LLMasOSError, match="reads text alone, and the messages hold an image"):
                model.run(task, **inputs)
        assert model.run("answer", question="What is it?", max_new_tokens=4).finish_reason in ("length", "stop")
        with pytest.raises(LLMasOSError, match="text is empty"):
            model.run("extract", schema=SCHEMA)


def test_words_of_the_command_line_name_files(picture: Path) -> None:
    """With @ before the name or without, one or several; a data: URL stays one, and the schema says what a client sends."""
    url = "data:image/png;base64,AAAA"
    assert from_words(describe.Inputs, ["--image", str(picture)]) == {"image": picture}
    assert from_words(describe.Inputs, [f"--image=@{picture}"]) == {"image": picture}
    assert from_words(describe.Inputs, ["--image", url]) == {"image": url}
    assert from_words(answer.Inputs, ["--images", "a.png", "--images", "@b.png"]) == {"images": [Path("a.png"), Path("b.png")]}
    assert from_texts(describe.Inputs, {"image": "a.png", "instruction": "", "seed": "3"}) == {"image": Path("a.png"), "seed": 3}
    inputs = make_inputs(extract.Inputs, {"images": [picture], "schema": SCHEMA})
    assert inputs.images == (picture,)
    schema = json_schema(answer.Inputs)["properties"]["images"]
    assert schema["items"] == {"type": "string", "pattern": "^data:", "contentEncoding": "base64"}
    assert json.dumps(json_schema(describe.Inputs))
