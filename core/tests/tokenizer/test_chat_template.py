"""Chat templates: the same text as transformers', and no way out of the sandbox, its time or its memory."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmasos.runtime import template_sandbox
from llmasos.runtime.chat_template import ChatTemplate
from llmasos.runtime.checkpoint import open_checkpoint
from llmasos_hookspecs import CheckpointError, LLMasOSError, RequestError

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}

CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou help.<|im_end|>\n' }}"
    "{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
#: Constructs that the templates of real models use.
TEMPLATES = {
    "chatml": CHATML,
    "alternating": """{{ bos_token }}{% for message in messages %}
  {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
    {{- raise_exception('Roles must alternate user/assistant') }}
  {%- endif %}
  {%- if message.role == 'user' %}{{ '[INST] ' ~ message.content | trim ~ ' [/INST]' }}
  {%- else %}{{ message.content + eos_token }}{% endif %}
{%- endfor %}
""",
    "namespace": """{%- set ns = namespace(found=false, last=messages | length - 1) %}
{%- for message in messages[::-1] %}
  {%- set index = (messages | length - 1) - loop.index0 %}
  {%- if not ns.found and message.role == "user" and message.content is string %}
    {%- set ns.found = true %}{%- set ns.last = index %}
  {%- endif %}
{%- endfor %}
{{- ns.last }}{{ messages | map(attribute='role') | join(',') }}
{% for m in messages if m.role != 'system' %}
    {{ m | tojson }}
    {% if loop.index > 3 %}{% break %}{% endif %}
{% endfor %}""",
    "macro": """{% macro show(message, depth=2) %}
<{{ message.role | upper }}>{{ message.content | replace('a', 'b') | indent(depth) }}</>
{% endmacro %}
{% for message in messages %}{{ show(message) }}{% if not loop.last %}, {% endif %}{% endfor %}
{{ '%s has %d' % ('chat', messages | length) }} {{ "{} {}".format(1, 'x') }} {{ ['a', 'b'] + ['c'] }} {{ dict(a=1) | tojson(indent=2) }}""",
    "generation": """{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}
{% else %}{{ m.content }}{% endif %}{% endfor %}""",
    "reasoning": """{% for m in messages %}{{ m.reasoning_content }}|{{ m.thinking }}|{{ m.get('name', '-') }}
{{ m.content.split('</think>')[-1].lstrip('\\n') }}
{% endfor %}{{ tools is none }}{{ documents is defined }}{{ nothing is defined }}""",
}

content = st.one_of(st.text(max_size=40), st.sampled_from(["a\nb", "  x ", "今天", "<think>y</think>\n\nz", "a%sb{}", "<|im_end|>"]))
message = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system"]), "content": content},
    optional={"reasoning_content": content, "thinking": st.none(), "name": st.text(max_size=5)},
)


@pytest.fixture(scope="module")
def reference() -> Any:
    from tokenizers import Tokenizer
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(BPE()), **TOKENS)


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_renders_as_transformers_does(name: str, reference: Any) -> None:
    template = ChatTemplate(TEMPLATES[name], TOKENS, "here")

    @settings(max_examples=300, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(message, min_size=1, max_size=5), st.booleans())
    def check(messages: list[dict[str, Any]], add: bool) -> None:
        try:
            expected = reference.apply_chat_template(messages, chat_template=TEMPLATES[name], tokenize=False, add_generation_prompt=add)
        except Exception:
            with pytest.raises(RequestError):
                template.render(messages, add_generation_prompt=add)
            return
        assert template.render(messages, add_generation_prompt=add) == expected

    check()


def test_a_refusal_of_the_template_is_the_users_to_mend() -> None:
    template = ChatTemplate(TEMPLATES["alternating"], TOKENS, "folder/tokenizer_config.json")
    with pytest.raises(RequestError, match=r"folder/tokenizer_config\.json refuses these messages: Roles must alternate"):
        template.render([{"role": "assistant", "content": "x"}])
    with pytest.raises(RequestError, match="at least one message"):
        template.render([])
    with pytest.raises(RequestError, match="mapping with role"):
        template.render(["hello"])  # type: ignore[list-item]


BOMBS = {
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "loops over text": "{% set x = 'a' * 100000 %}{% for a in x %}{% for b in x %}{% endfor %}{% endfor %}",
    "output": "{% set x = 'a' * 100000 %}{% for a in range(99999) %}{{ x }}{% endfor %}",
    "range": "{{ range(10 ** 12) | list }}",
    "multiplied text": "{{ 'a' * 10 ** 11 }}",
    "multiplied list": "{{ [1] * 10 ** 10 }}",
    "power": "{{ 10 ** (10 ** 8) }}",
    "powers": "{% set ns = namespace(x=2 ** 4000) %}{% for i in range(60) %}{% set ns.x = ns.x * ns.x %}{% endfor %}",
    "doubling": "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "doubling without a loop": "{% set x = 'aaaaaaaa' %}" + "{% set x = x ~ x %}" * 60,
    "added": "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "added lists": "{% set ns = namespace(x=[1, 2, 3]) %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "centre": "{{ 'a' | center(10000000000) }}",
    "ljust": "{{ 'a'.ljust(10000000000) }}",
    "expandtabs": "{{ '\t'.expandtabs(10000000000) }}",
    "indent": "{% set x = '\n' * 99999 %}{{ x | indent(99999) }}",
    "printf": "{{ '%10000000000d' % 1 }}",
    "printf star": "{{ '%*d' % (10000000000, 1) }}",
    "format filter": "{{ '%10000000000d' | format(1) }}",
    "format": "{{ '{:>10000000000}'.format(1) }}",
    "replace": "{% set x = 'a' * 99999 %}{{ x.replace('a', x) }}",
    "replace filter": "{% set x = 'a' * 99999 %}{{ x | replace('a', x) }}",
    "join": "{% set x = 'a' * 99999 %}{{ x.join(x) }}",
    "join filter": "{% set x = 'a' * 99999 %}{{ x | join(x) }}",
    "batch": "{{ [1] | batch(10000000000, 0) | list }}",
    "round": "{{ 1.5 | round(1000000000, 'floor') }}",
    "tojson": "{{ [[[1]]] | tojson(indent=1000000000) }}",
    "date": "{{ strftime_now('%c' * 1000000) }}",
    "recursion": "{% macro f(n) %}{{ f(n) }}{{ f(n) }}{% endmacro %}{{ f(1) }}",
    "recursive loop": "{% for a in [[1, 1], [1, 1]] recursive %}{{ loop([[1, 1], [1, 1]]) }}{% endfor %}",
    "wide tree": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
}
ESCAPES = {
    "class": "{{ ''.__class__.__mro__ }}",
    "globals": "{{ raise_exception.__globals__ }}",
    "namespace": "{% set ns = namespace(__class__=1) %}",
    "environment": "{{ self._TemplateReference__context.environment }}",
    "init": "{{ cycler.__init__.__globals__.os.system('true') }}",
    "mutation": "{{ messages.append(1) }}",
    "include": "{% include '/etc/passwd' %}",
    "import": "{% import '/etc/passwd' as x %}",
    "extends": "{% extends '/etc/passwd' %}",
    "formatted": "{{ '{0.__class__}'.format(1) }}",
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_template_that_asks_for_much_time_or_memory_is_stopped(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_sandbox, "MAX_STEPS", 20_000)  # tracing memory makes steps slow
    tracemalloc.start()
    try:
        with pytest.raises(LLMasOSError) as caught:
            ChatTemplate(BOMBS[name], TOKENS, "here").render([{"role": "user", "content": "x"}])
        assert tracemalloc.get_traced_memory()[1] < 200 << 20
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ESCAPES)
def test_a_template_does_not_leave_the_sandbox(name: str) -> None:
    try:
        text = ChatTemplate(ESCAPES[name], TOKENS, "here").render([{"role": "user", "content": "x"}])
    except LLMasOSError as error:
        text = "" if len(str(error).splitlines()) == 1 else str(error)
    assert text.strip() in ("", "None")  # what the sandbox hides is undefined, and renders as nothing


@pytest.mark.parametrize("source", ["{% for %}", "{{ (", "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "{% if %}", "x" * (1 << 21)])
def test_what_is_no_template_is_one_clear_sentence(source: str) -> None:
    with pytest.raises(CheckpointError, match="chat template") as caught:
        ChatTemplate(source, TOKENS, "model.gguf")
    assert len(str(caught.value)) < 400


def test_the_template_is_found_in_each_place_that_models_keep_it(tmp_path: Path, train_byte_level: Any, write_tokenizer: Any) -> None:
    from llmasos.runtime.tokenizer.pretokenizers import PRE_TOKENIZERS

    trained = train_byte_level(PRE_TOKENIZERS["qwen2"].build())
    assert ChatTemplate.of(open_checkpoint(write_tokenizer(trained, "gpt2", pre="qwen2"))) is None
    path = write_tokenizer(trained, "gpt2", pre="qwen2", add_chat_template="{{ bos_token }}{{ messages[0].content }}")
    template = ChatTemplate.of(open_checkpoint(path))
    assert template is not None
    assert template.render([{"role": "user", "content": "hi"}]) == "<s>hi"

    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "genai_config.json").write_text("{}")
    trained.backend.save(str(folder / "tokenizer.json"))
    checkpoint = open_checkpoint(folder)
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
    from llmasos.runtime.tokenizer.pretokenizers import PRE_TOKENIZERS

    trained = train_byte_level(PRE_TOKENIZERS["qwen2"].build())
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "genai_config.json").write_text("{}")
    trained.backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": templates}))
    files = [open_checkpoint(folder)]
    if templates and all(len(entry) == 2 for entry in templates):
        files.append(open_checkpoint(write_tokenizer(trained, "gpt2", pre="qwen2", add_chat_template=templates)))
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
def test_smollm2_chats_as_transformers_renders_it(smollm2_gguf: Path, reference: Any) -> None:
    template = ChatTemplate.of(open_checkpoint(smollm2_gguf))
    assert template is not None
    for messages in ([{"role": "user", "content": "今天天气很好"}], [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]):
        for add in (True, False):
            expected = reference.apply_chat_template(messages, chat_template=template.source, tokenize=False, add_generation_prompt=add)
            assert template.render(messages, add_generation_prompt=add) == expected
