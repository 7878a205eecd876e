"""A model's chat template is found where its files keep it, and renders as transformers renders it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmasos.compose.formats import open_model
from llmasos_chat_templates.template import ChatTemplate
from llmasos_format_gguf.checkpoint import GGUFCheckpoint
from llmasos_hookspecs import RequestError


def test_the_template_is_found_in_each_place_that_models_keep_it(tmp_path: Path, train_byte_level: Any, write_tokenizer: Any) -> None:
    from llmasos_tokenizing.pretokenizers import PRE_TOKENIZERS

    trained = train_byte_level(PRE_TOKENIZERS["qwen2"].build())
    assert ChatTemplate.of(GGUFCheckpoint(write_tokenizer(trained, "gpt2", pre="qwen2"))) is None
    path = write_tokenizer(trained, "gpt2", pre="qwen2", add_chat_template="{{ bos_token }}{{ messages[0].content }}")
    template = ChatTemplate.of(GGUFCheckpoint(path))
    assert template is not None
    assert template.render([{"role": "user", "content": "hi"}]) == "<s>hi"

    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "genai_config.json").write_text("{}")
    trained.backend.save(str(folder / "tokenizer.json"))
    checkpoint = open_model(folder)
    assert ChatTemplate.of(checkpoint) is None
    for name, text in (
        (
            "tokenizer_config.json",
            json.dumps({"chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "a"}]}),
        ),
        ("tokenizer_config.json", json.dumps({"chat_template": "b"})),
        ("chat_template.json", json.dumps({"chat_template": "c"})),
        ("chat_template.jinja", "d"),
    ):
        (folder / name).write_text(text)
        found = ChatTemplate.of(checkpoint)
        assert found is not None
        assert found.source == (text if name.endswith("jinja") else "a" if "tool_use" in text else json.loads(text)["chat_template"])


NAMED = [{"name": "tool_use", "template": "t"}, {"name": "rag", "template": "r"}]


@pytest.mark.parametrize(
    ("templates", "chosen"),
    [
        ([*NAMED, {"name": "default", "template": "d"}], "d"),
        (NAMED[:1], "t"),  # a template for tools renders chats without any too
        (NAMED, None),
        ([{"name": "default"}, *NAMED], None),
        ([{"text": "x"}], None),
        ([], "transcript"),
    ],
    ids=["default", "one", "two without default", "default without a text", "no template", "empty"],
)
def test_of_several_templates_the_default_or_the_only_one_is_taken(
    templates: list[dict[str, str]], chosen: str | None, tmp_path: Path, train_byte_level: Any, write_tokenizer: Any
) -> None:
    """Where none of several says that it is for plain chats, chats are refused with the names, rather than written as a transcript."""
    from llmasos_tokenizing.pretokenizers import PRE_TOKENIZERS

    trained = train_byte_level(PRE_TOKENIZERS["qwen2"].build())
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "genai_config.json").write_text("{}")
    trained.backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": templates}))
    files = [open_model(folder)]
    if templates and all(len(entry) == 2 for entry in templates):
        files.append(GGUFCheckpoint(write_tokenizer(trained, "gpt2", pre="qwen2", add_chat_template=templates)))
    for checkpoint in files:
        if chosen is None:
            refusing = ChatTemplate.of(checkpoint)
            assert refusing is not None
            with pytest.raises(RequestError, match="and none is called default; give that name to the one for plain chats"):
                refusing.render([{"role": "user", "content": "hi"}])
            continue
        found = ChatTemplate.of(checkpoint)
        assert (found.source if found else "transcript") == chosen


@pytest.mark.model
def test_smollm2_chats_as_transformers_renders_it(smollm2_gguf: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    reference = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(BPE()), bos_token="<s>", eos_token="</s>")
    template = ChatTemplate.of(open_model(smollm2_gguf))
    assert template is not None
    for messages in ([{"role": "user", "content": "今天天气很好"}], [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]):
        for add in (True, False):
            expected = reference.apply_chat_template(messages, chat_template=template.source, tokenize=False, add_generation_prompt=add)
            assert template.render(messages, add_generation_prompt=add) == expected
