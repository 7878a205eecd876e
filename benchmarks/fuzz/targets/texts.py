"""What turns messages to tokens: tokenizers and chat templates; and conversations that were kept."""

from __future__ import annotations

import json
from typing import Any, Final

from benchmarks.fuzz.looking import TEXT, formats_here, speak
from benchmarks.fuzz.mutation import json_file, parted, plain, text_of
from benchmarks.fuzz.protobuf import message, protobuf_file
from benchmarks.fuzz.target import Room, Target
from llmasos.compose.prompts import PromptEncoder
from llmasos_chat_templates.messages import ChatOptions
from llmasos_chat_templates.template import ChatTemplate
from llmasos_hookspecs.testing.tokenizer import CHAT_TEMPLATE, tokenizer_files

#: What chat templates are made of, and what may break one.
PIECES: Final = (
    "{{", "}}", "{%", "%}", " for a in ", "messages", "range(9999)", " endfor ", " if ", " endif ", " set x = ", "x", "'a'", "*", "**", "~",
    "+", "|", "join", "list", "center(", "999999", ")", "(", ".", "[", "]", "loop", "tojson", "macro f() ", " endmacro ", "f()", "%", "-",
    "raise_exception('no')", "namespace(x=1)", "__class__", "break", "replace", "format", "'%d'", "{#", "#}", " is ", "defined", "\n",
    "strftime_now('%Y')",
)  # fmt: skip
#: Of a template that writes tools.
_TOOL_PIECES: Final = (
    *PIECES, "tools", "tool", " for t in tools ", ".function", ".parameters.properties", ".items()", "enable_thinking",
    "message.tool_calls", ".arguments",
    " | tojson", "indent=4", " | length", " | first", " is mapping", " is string", " is iterable", "[0]", ".name",
)  # fmt: skip
_TOOL_TEMPLATE: Final = (
    "{% if tools %}<tools>{% for tool in tools %}{{ tool | tojson }}"
    "{% for name, of in tool.function.parameters.properties.items() %}{{ name }}: {{ of.type | default('any') }}{% endfor %}"
    "{% endfor %}</tools>{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}"
    "{% for call in message.tool_calls or [] %}<call>{{ call.function.name }}{{ call.function.arguments | tojson }}</call>{% endfor %}"
    "<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}{% endif %}{{ style | default('') }}"
)
_MORE_TEMPLATES: Final = (
    "{% set ns = namespace(i=0) %}{% for m in messages if m.role == 'user' %}{% set ns.i = ns.i + loop.index0 %}{{ m.content | trim }}"
    "{% else %}{{ raise_exception('none') }}{% endfor %}{{ ns.i }}",
    "{% macro turn(m, end='<e>') -%}[{{ m['role'] | upper }}] {{ m.get('content', '').split('</t>')[-1].strip() }}{{ end }}{%- endmacro %}"
    "{% for m in messages %}{{ turn(m) }}{% if loop.last %}{{ m | tojson }}{% endif %}{% endfor %}{{ strftime_now('%d %b') }}",
)


def tokenizer(room: Room) -> Target:
    """tokenizer.json of several models, tokenizer.model, and vocab.json with merges.txt; whichever is changed lies there alone."""
    files = tokenizer_files()
    bpe = files["tokenizer.json"]
    vocabulary = {**bpe["model"]["vocab"], "ab": 260, "abc": 261}
    merging = {**bpe, "model": {**bpe["model"], "vocab": vocabulary, "merges": ["a b", "ab c"], "byte_fallback": True}}
    split = {"type": "Split", "pattern": {"Regex": r"\p{N}{1,3}|\s+"}, "behavior": "Isolated", "invert": False}
    steps = {"type": "Sequence", "pretokenizers": [split, bpe["pre_tokenizer"]]}
    normal = {"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}
    around = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<|bos|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<|bos|>": {"id": "<|bos|>", "ids": [256], "tokens": ["<|bos|>"]}},
    }
    words = {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100}
    words |= {"vocab": {"[UNK]": 0, "h": 1, "##e": 2, "##l": 3, "##o": 4, "2": 5}}
    cleaned = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True}
    joined = {"type": "WordPiece", "prefix": "##", "cleanup": True}
    parts = {"model": words, "normalizer": cleaned, "pre_tokenizer": {"type": "BertPreTokenizer"}, "decoder": joined}
    bert = {**bpe, "added_tokens": [], **parts}
    unigram = {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["▁", -1.0], ["a", -2.0], ["▁H", -1.5]], "byte_fallback": False}
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    piece = {**bpe, "added_tokens": [], "model": unigram, "pre_tokenizer": metaspace, "decoder": metaspace}
    whole = [bpe, {**merging, "normalizer": normal, "pre_tokenizer": steps, "post_processor": around}, bert, piece]
    names = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt")
    lone = {"vocab.json": json.dumps(vocabulary).encode(), "merges.txt": b"#version: 0.2\na b\nab c\n"}
    settings = room.folder / "tokenizer_config.json"

    def prepare(data: bytes) -> None:
        chosen = names[data[0] % len(names)] if data else names[0]
        for name in names:
            (room.folder / name).unlink(missing_ok=True)
        beside = lone if chosen in lone else {}
        for name, content in {**beside, chosen: data[1:]}.items():
            (room.folder / name).write_bytes(content)
        kind = {"tokenizer.json": "PreTrainedTokenizerFast", "tokenizer.model": "LlamaTokenizer"}.get(chosen, "GPT2Tokenizer")
        settings.write_text(json.dumps({**files["tokenizer_config.json"], "tokenizer_class": kind}))

    return Target(
        name="tokenizer",
        seeds=[
            *(b"\0" + json.dumps(each).encode() for each in whole),
            *(b"\1" + _pieces(kind) for kind in (1, 2)),
            *(bytes([number]) + lone[names[number]] for number in (2, 3)),
        ],
        prepare=prepare,
        read=lambda: speak(formats_here().tokenizer(room.folder)),
        room=room,
        mutate=parted(json_file, protobuf_file, json_file, plain),
    )


def _pieces(kind: int) -> bytes:
    """A SentencePiece model: 1 unigram, 2 BPE."""
    named: list[tuple[str, float, int]] = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)]
    named += [(f"<0x{byte:02X}>", 0.0, 6) for byte in range(256)]
    named += [(text, -float(place), 1) for place, text in enumerate(("▁H", "▁", "H", "e", "l", "ll", "▁He"))]
    pieces = [(1, message((1, text), (2, score), (3, sort))) for text, score, sort in named]
    trainer = message((3, kind), (35, 1), (40, 0), (41, 1), (42, 2))
    return message(*pieces, (2, trainer), (3, message((1, "identity"), (3, 1), (4, 1), (5, 1))))


def template(room: Room) -> Target:
    """Sources of chat templates, rendered with two messages."""
    sources: list[str] = []
    messages = [{"role": "user", "content": TEXT}, {"role": "assistant", "content": "b", "reasoning": "c"}]

    def read() -> None:
        ChatTemplate(sources[-1], {"bos_token": "<s>"}, "here").render(messages)

    return Target(
        name="template",
        seeds=[source.encode() for source in (CHAT_TEMPLATE, *_MORE_TEMPLATES)],
        prepare=lambda data: sources.__setitem__(slice(None), [data.decode("utf-8", "replace")]),
        read=read,
        room=room,
        mutate=text_of(PIECES),
    )


def chat(room: Room) -> Target:
    """What a client sends: messages that call tools, the tools, arguments of the template; and templates that read them."""
    question = {"role": "user", "content": [{"type": "text", "text": TEXT}]}
    called = {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b": [2, {"c": null}]}'}}
    turns = [
        question,
        {"role": "assistant", "content": None, "tool_calls": [called]},
        {"role": "tool", "tool_call_id": "1", "content": "3"},
    ]
    numbers = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "array", "items": {"type": "number"}}}}
    tool = {"type": "function", "function": {"name": "add", "description": "Adds <|im_end|> numbers.", "parameters": numbers}}
    whole = {"messages": turns, "tools": [tool], "template_arguments": {"enable_thinking": False, "style": "brief"}}
    for name, content in tokenizer_files().items():
        (room.folder / name).write_text(json.dumps(content))
    tokenizer = formats_here().tokenizer(room.folder)

    def of(source: str) -> PromptEncoder:
        return PromptEncoder(tokenizer, ChatTemplate(source, {"bos_token": "<|bos|>"}, "here"))

    known = of(_TOOL_TEMPLATE)
    given: list[tuple[str, Any]] = []

    def prepare(data: bytes) -> None:
        if data[:1] == b"\1":
            given[:] = [(data[1:].decode("utf-8", "replace"), whole)]
            return
        try:
            request = json.loads(data[1:])
        except (ValueError, RecursionError):  # a server refuses what is no JSON before it is a chat
            request = {}
        given[:] = [(_TOOL_TEMPLATE, request if isinstance(request, dict) else {"messages": request})]

    def read() -> None:
        source, request = given[0]
        options = ChatOptions.of(request.get("tools"), request.get("template_arguments"), request.get("allow_control_tokens", False))
        prompts = known if source == _TOOL_TEMPLATE else of(source)
        prompts.encode(request.get("messages"), options)

    return Target(
        name="chat",
        seeds=[b"\0" + json.dumps(whole).encode(), b"\1" + _TOOL_TEMPLATE.encode()],
        prepare=prepare,
        read=read,
        room=room,
        mutate=parted(json_file, text_of(_TOOL_PIECES)),
    )


def conversation(room: Room) -> Target:
    """Files of conversations of an earlier version, which are taken over."""
    from llmasos_conversations.taking_over import read_old

    path = room.folder / "kept.json"
    turns = [("system", "Be brief."), ("user", TEXT), ("assistant", "b")]

    def read() -> None:
        read_old(path)

    return Target(
        name="conversation",
        seeds=[json.dumps({"messages": [{"role": role, "content": text} for role, text in turns]}).encode()],
        prepare=path.write_bytes,
        read=read,
        room=room,
        mutate=json_file,
    )
