"""Chat templates: the same text as transformers', and no way out of the sandbox, its time or its memory."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from llmasos_chat_templates.sandbox import allowed, limits
from llmasos_chat_templates.template import ChatTemplate
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

    @settings(max_examples=settings.default.max_examples // 2, deadline=None, database=None, suppress_health_check=list(HealthCheck))
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
        template.render(["hello"])


#: Values of twenty levels, each of which holds the one below twice.
NESTED = "{% set x = [1] %}" + "{% set x = [x, x] %}" * 20
NESTED_PAIR = "{% set x, y = [1], [1] %}" + "{% set x, y = [x, x], [y, y] %}" * 20
NESTED_TUPLE = "{% set x = (1,) %}" + "{% set x = (x, x) %}" * 20
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
    "doubling without a loop": "{% set x = 'aaaaaaaa' %}" + "{% set x = x ~ x %}" * 30,
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
    "join": "{% set x = 'a' * 19999 %}{{ x.join(x) }}",
    "join filter": "{% set x = 'a' * 19999 %}{{ x | join(x) }}",
    "batch": "{{ [1] | batch(10000000000, 0) | list }}",
    "round": "{{ 1.5 | round(1000000000, 'floor') }}",
    "tojson": "{{ [[[1]]] | tojson(indent=1000000000) }}",
    "date": "{{ strftime_now('%c' * 1000000) }}",
    "recursion": "{% macro f(n) %}{{ f(n) }}{{ f(n) }}{% endmacro %}{{ f(1) }}",
    "recursive loop": "{% for a in [[1, 1], [1, 1]] recursive %}{{ loop([[1, 1], [1, 1]]) }}{% endfor %}",
    "nested lists through str": NESTED + "{% set y = x | string %}",
    "nested lists written": NESTED + "{{ x }}",
    "nested lists joined to a text": NESTED + "{% set y = x ~ '' %}",
    "nested lists as JSON": NESTED + "{{ x | tojson }}",
    "nested lists compared": NESTED_PAIR + "{{ x == y }}",
    "nested lists sought": NESTED_PAIR + "{{ x in [y] }}",
    "nested lists tested": NESTED_PAIR + "{{ x is eq(y) }}",
    "nested lists counted": NESTED_PAIR + "{{ [x].count(y) }}",
    "nested lists sorted": NESTED_PAIR + "{{ [x, y] | sort }}",
    "nested lists as unique": NESTED_TUPLE + "{{ [x] | unique }}",
    "nested lists in a format": NESTED + "{{ '%s' % (x,) }}",
    "nested lists in str.format": NESTED + "{{ '{}'.format(x) }}",
    "nested lists joined": NESTED + "{{ ','.join([x]) }}{{ [x] | join }}",
    "nested lists changed": NESTED_PAIR + "{% for a in [x, y] %}{{ loop.changed(a) }}{% endfor %}",
    "nested lists as a key": NESTED_TUPLE + "{{ {}.get(x) }}",
    "nested lists in an error": NESTED + "{{ raise_exception(x) }}",
    "nested namespaces": "{% set x = namespace(a=1) %}" + "{% set x = namespace(a=x, b=x) %}" * 20 + "{{ x }}",
    "sum of lists": "{{ [[1]] | sum(start=[]) }}",
    "sum of many lists": "{% set x = [[1] * 100] * 100 %}{{ x | sum(start=[]) }}",
    "expandtabs of two thousand million": "{{ '\t'.expandtabs(2 * 10 ** 9) }}",
    "ljust of bytes": "{{ 'a'.encode().ljust(10 ** 10) }}",
    "replace of bytes": "{% set x = ('a' * 99999).encode() %}{{ x.replace('a'.encode(), x) }}",
    "join of bytes": "{% set x = ('a' * 99999).encode() %}{{ x.join([x] * 99999) }}",
    "bytes of an integer": "{{ (1).to_bytes(10 ** 10, 'big') }}",
    "format_map": "{{ '{a:>10000000000}'.format_map({'a': 1}) }}",
    "format_map of the message": "{{ messages[0].role.format_map({}) }}",
    "growing lists": "{% set ns = namespace(x=[]) %}{% for i in range(99999) %}{% set ns.x = ns.x + [i] %}{% endfor %}",
    "growing lists of lists": "{% set ns = namespace(x=[]) %}{% for i in range(99999) %}{% for j in range(99999) %}"
    "{% set ns.x = [ns.x, range(99999) | list] %}{% endfor %}{% endfor %}",
    "copies": "{% set x = 'a' * 10000000 %}{% set ns = namespace(x=[]) %}{% for i in range(9999) %}"
    "{% set ns.x = [ns.x, x[1:]] %}{% endfor %}",
    "many arguments": "{% macro f() %}{{ varargs | length }}{% endmacro %}{% set x = range(99999) | list %}"
    "{% for i in range(99999) %}{{ f(*x) }}{% endfor %}",
    "a filtered loop": "{% for i in range(99999) %}{% for j in range(99999) if false %}{% endfor %}{% endfor %}",
    "long numbers": "{% set x = ('f' * 9999999) | int(0, 16) %}{{ x // 3 }}",
    "numbers of texts": "{{ ('9' * 4000) | int * ('9' * 4000) | int }}",
    "strip of any of many": "{% set x = 'a' * 9999999 %}{% set y = 'b' * 9999999 ~ 'a' %}{{ x.strip(y) }}",
    "rfind": "{% set x = 'a' * 9999999 %}{% set y = 'b' ~ 'a' * 4999999 %}{{ x.rfind(y) }}",
    "escapes": "{% set x = '<' * 9999999 %}{{ x | e | e | e }}",
    "a block that calls itself": "{% block a %}{{ self.a() }}{{ self.a() }}{% endblock %}",
    "set blocks": "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(60) %}{% set x %}{{ ns.x }}{{ ns.x }}{% endset %}"
    "{% set ns.x = x %}{% endfor %}",
    "a long body": "{% for i in range(99999) %}{% for j in range(99999) %}" + "{{ 1 }}" * 100 + "{% endfor %}{% endfor %}",
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
    # Tracing memory makes steps slow. Lists of 2 ** 20 others are far beyond the bound; texts of ten million characters may be read once.
    monkeypatch.setattr(limits, "MAX_STEPS", 4_000)
    monkeypatch.setattr(limits, "MAX_SECONDS", 0.25)
    monkeypatch.setattr(limits, "MAX_READ", 1 << (14 if name.startswith("nested") else 24))
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


ALLOWED = {
    "filters": allowed.filters(),
    "tests": allowed.tests(),
}


@pytest.mark.parametrize("kind", ALLOWED)
def test_every_filter_and_test_of_jinja2_that_is_not_named_is_refused(kind: str) -> None:
    """What is named renders; all others of jinja2's registry are refused before anything is rendered."""
    from jinja2.defaults import DEFAULT_FILTERS, DEFAULT_TESTS

    registry = {"filters": DEFAULT_FILTERS, "tests": DEFAULT_TESTS}[kind]
    form = "{{{{ messages | {} }}}}" if kind == "filters" else "{{{{ messages is {} }}}}"
    assert set(ALLOWED[kind]) <= set(registry)
    words = [name for name in sorted(set(registry) - set(ALLOWED[kind])) if name.isidentifier() and name not in ("not", "in")]
    assert words
    for name in words:
        with pytest.raises(CheckpointError, match="chat template"):
            ChatTemplate(form.format(name), TOKENS, "here")


@pytest.mark.parametrize(
    ("value", "named"),
    [("'text'", allowed.TEXT_METHODS), ("{'a': 1}", allowed.DICT_METHODS), ("[1]", allowed.LIST_METHODS), ("(1,)", allowed.LIST_METHODS),
     ("1", frozenset()), ("1.5", frozenset()), ("none", frozenset())],
)  # fmt: skip
def test_every_method_that_is_not_named_is_refused(value: str, named: frozenset[str]) -> None:
    sample = {"none": None}[value] if value == "none" else eval(value)
    for name in dir(sample):
        if name not in named and callable(getattr(sample, name)):
            with pytest.raises((CheckpointError, RequestError)):
                ChatTemplate(f"{{{{ ({value}).{name}() }}}}", TOKENS, "here").render([{"role": "user", "content": "x"}])
            with pytest.raises((CheckpointError, RequestError)):
                ChatTemplate(f"{{{{ ({value})['{name}']() }}}}", TOKENS, "here").render([{"role": "user", "content": "x"}])


def test_what_templates_of_published_models_call_is_on_the_lists() -> None:
    """Each named method, filter and test renders what jinja2 itself does."""
    import jinja2

    plain = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    sources = [
        "{{ ' a b '.strip() }}{{ 'a,b'.split(',') }}{{ 'aXb'.partition('X') }}{{ 'abc'.removeprefix('a').removesuffix('c') }}",
        "{{ 'ab'.startswith('a') }}{{ 'ab'.endswith(('b', 'c')) }}{{ 'a b'.title() }}{{ 'aab'.count('a') }}{{ 'x'.join(['a', 'b']) }}",
        "{{ 'a\nb'.splitlines() }}{{ 'ab'.find('b') }}{{ 'a-b-c'.rsplit('-', 1)[0] }}{{ 'aab'.replace('a', 'c', 1) }}",
        "{% for k, v in {'a': 1}.items() %}{{ k }}{{ v }}{% endfor %}{{ {'a': 1}.get('b', 2) }}{{ {'b': 1, 'a': 2} | dictsort }}",
        "{{ [3, 1, 2] | sort | join('-') }}{{ [1, 1, 2] | unique | list }}{{ [1, 2] | sum }}{{ [1, 2] | max }}",
        "{{ [1, 2] | reverse | list }}",
        "{{ [{'a': 1}, {'a': 2}] | selectattr('a', 'equalto', 2) | list }}{{ ['a', ''] | select | list }}{{ ['1'] | map('int') | first }}",
        "{{ 'abc' | upper | lower | capitalize | title | length }}{{ 'a' | default('b') }}{{ x | d('c') }}",
        "{{ '3.7' | float | round | int }}",
        "{{ messages is sequence }}{{ 'a' is string }}{{ {} is mapping }}{{ 2 is even }}{{ none is none }}",
        "{{ x is undefined }}{{ 1 is number }}",
        "{{ 'x' if 1 in [1, 2] and 1 < 2 <= 2 else 'y' }}{{ 1 == 1.0 }}",
        "{{ not true }}{{ -1 }}{{ 7 // 2 }}{{ 7 % 2 }}{{ 2 ** 3 }}{{ 'a' * 3 }}",
        "{% for x in [1, 2, 3] if x != 2 %}{{ loop.index }}{{ loop.last }}{{ loop.previtem }}{{ loop.cycle('a', 'b') }}{% endfor %}",
        "{% macro f(a, b=2) %}{{ a }}{{ b }}{{ caller() if caller }}{% endmacro %}{{ f(1) }}{% call f(3) %}c{% endcall %}",
        "{% set x %}a{{ 1 }}{% endset %}{{ x }}{% filter upper %}b{% endfilter %}{{ 'abcdef'[1:4] }}{{ 'abc'[::-1] }}{{ ['a', 'b'][-1] }}",
        "{% for a in [1, [2, 3]] recursive %}{{ a if a is number else loop(a) }}{% endfor %}",
        "{{ '%s-%03d' % ('a', 5) }}{{ '{:>4}'.format('x') }}",
    ]
    for source in sources:
        messages = [{"role": "user", "content": "x"}]
        assert ChatTemplate(source, TOKENS, "here").render(messages) == plain.from_string(source).render(messages=messages), source


@pytest.mark.parametrize(
    "source", ["{% macro f(a, a) %}{% endmacro %}", "{% for a in m %}" * 25 + "{% endfor %}" * 25, "{{ f(a=1, a=2) }}"]
)
def test_an_error_of_a_template_reads_no_file_of_the_working_folder(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python shows the line of the file that a syntax error names."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="no valid jinja2") as named:
        ChatTemplate(source, TOKENS, "model.gguf")
    assert isinstance(named.value.__cause__, SyntaxError)
    (tmp_path / Path(named.value.__cause__.filename or "").name).write_text("secret\n" * 1000)
    (tmp_path / "<template>").write_text("secret\n" * 1000)
    with pytest.raises(CheckpointError, match="no valid jinja2") as caught:
        ChatTemplate(source, TOKENS, "model.gguf")
    assert isinstance(caught.value.__cause__, SyntaxError)
    assert caught.value.__cause__.text is None


@pytest.mark.parametrize("source", ["{% for %}", "{{ (", "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "{% if %}", "x" * (1 << 21)])
def test_what_is_no_template_is_one_clear_sentence(source: str) -> None:
    with pytest.raises(CheckpointError, match="chat template") as caught:
        ChatTemplate(source, TOKENS, "model.gguf")
    assert len(str(caught.value)) < 400


#: Templates of vision-language models, which read a content as a list of parts: alone, or beside a text.
PARTS_ALONE = (
    "{% for message in messages %}{{ message['role'] | capitalize }}"
    "{% if message['content'][0]['type'] == 'image' %}:{% else %}: {% endif %}{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% elif part['type'] == 'image' %}<image>{% endif %}{% endfor %}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
PARTS_OR_TEXT = (
    "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}{% for part in m.content %}"
    "{% if part.type == 'text' %}({{ part.text }}){% endif %}{% endfor %}{% endif %}{% endfor %}"
)


def test_a_template_that_reads_parts_alone_gets_a_text_as_one(reference: Any) -> None:
    """A plain text would vanish from the prompt; with the parts that such a model was trained on, it is as transformers renders those."""
    template = ChatTemplate(PARTS_ALONE, TOKENS, "test")
    texts = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}, {"role": "user", "content": ""}]
    parts = [{**each, "content": [{"type": "text", "text": each["content"]}]} for each in texts]
    assert template.render(texts) == "User: Hi</s>\nAssistant: Hello</s>\nUser: </s>\nAssistant:"
    expected = reference.apply_chat_template(parts, chat_template=PARTS_ALONE, tokenize=False, add_generation_prompt=True)
    assert template.render(texts) == expected


@pytest.mark.parametrize("source", [*TEMPLATES.values(), PARTS_OR_TEXT, "{% for m in messages %}{{ m['type'] }}{% endfor %}"])
def test_every_other_template_gets_a_text_as_it_is(source: str) -> None:
    """Also one that reads either, and one that shows no content at all."""
    assert not ChatTemplate(source, TOKENS, "test").reads_parts


def test_a_template_that_refuses_the_probe_gets_a_text_as_it_is() -> None:
    """Whatever it raises for the message that it is tried with, it is not for the user of another one."""
    source = "{% if messages | length < 2 %}{{ raise_exception('type') }}{% endif %}{{ messages[0]['type'] }}{{ messages[1]['content'] }}"
    template = ChatTemplate(source, TOKENS, "test")
    assert template.render([{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]) == "b"
