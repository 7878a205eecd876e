"""Models as files of weights: GGUF, and Hugging Face folders of safetensors, plain or quantised."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.fuzz.gguf_files import gguf_file
from benchmarks.fuzz.looking import look
from benchmarks.fuzz.mutation import Mutator, json_file, parted, safetensors_file
from benchmarks.fuzz.target import Room, Target
from llmasos.compose.formats import open_model
from llmasos_hookspecs.testing import tiny_checkpoint
from llmasos_hookspecs.testing.checkpoints import quantize
from llmasos_huggingface_folder.writer import CheckpointFolderWriter

WEIGHTS, INDEX, MANIFEST = "model.safetensors", "model.safetensors.index.json", "llmasos.json"
_SMALL = {"num_hidden_layers": 1, "hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1}


def gguf(room: Room) -> Target:
    """Files of one layer: bytes as tokens, and SentencePiece pieces."""
    path = room.folder / "model.gguf"
    return Target(
        name="gguf",
        seeds=[_gguf(room.scratch / "seed.gguf", kind) for kind in ("gpt2", "llama")],
        prepare=path.write_bytes,
        read=lambda: look(path),
        room=room,
        mutate=gguf_file,
    )


def _gguf(path: Path, tokenizer: str) -> bytes:
    import gguf as library

    from llmasos_tokenizing.pieces import SPELLING

    writer = library.GGUFWriter(path, "llama")
    numbers = {"block_count": 1, "context_length": 64, "embedding_length": 32, "feed_forward_length": 32, "vocab_size": 262}
    for key, value in {**numbers, "attention.head_count": 2, "attention.head_count_kv": 1, "rope.dimension_count": 16}.items():
        writer.add_uint32(f"llama.{key}", value)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model(tokenizer)
    if tokenizer == "gpt2":
        writer.add_tokenizer_pre("qwen2")
        writer.add_token_list([*(SPELLING[byte] for byte in range(256)), "ab", "abc", "<s>", "</s>", "x", "y"])
        writer.add_token_types([1] * 258 + [3, 3, 1, 1])
        writer.add_token_merges(["a b", "ab c"])
    else:
        writer.add_token_list(["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "▁a"])
        writer.add_token_scores([0.0] * 259 + [-1.0, -2.0, -1.5])
        writer.add_token_types([2, 3, 3, *[6] * 256, 1, 1, 1])
    writer.add_bos_token_id(258 if tokenizer == "gpt2" else 1)
    writer.add_eos_token_id(259 if tokenizer == "gpt2" else 2)
    writer.add_chat_template("{% for m in messages %}{{ m.content }}{% endfor %}")
    rng = np.random.default_rng(0)
    shapes = {"attn_q": (32, 32), "attn_k": (16, 32), "attn_v": (16, 32), "attn_output": (32, 32)}
    shapes |= dict.fromkeys(("ffn_gate", "ffn_up", "ffn_down"), (32, 32))
    named = {f"blk.0.{part}.weight": shape for part, shape in shapes.items()}
    norms = dict.fromkeys(("output_norm.weight", "blk.0.attn_norm.weight", "blk.0.ffn_norm.weight"), (32,))
    kinds = library.GGMLQuantizationType
    for name, shape in {"token_embd.weight": (262, 32), **named, **norms}.items():
        kind = kinds.F32 if len(shape) == 1 else kinds.Q4_1 if tokenizer == "gpt2" else kinds.Q8_0
        writer.add_tensor(name, library.quantize(rng.standard_normal(shape).astype(np.float32), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def split_gguf(room: Room) -> Target:
    """The same layer in two parts, each of which may be damaged."""
    import gguf as library

    seed = room.scratch / "seed.gguf"
    _gguf(seed, "gpt2")
    whole, path = library.GGUFReader(seed), room.folder / "model"
    path.mkdir()
    names = [f"model-{part:05}-of-00002.gguf" for part in (1, 2)]
    for part, name in enumerate(names):
        writer = library.GGUFWriter(path / name, "llama")
        writer.add_uint16(library.Keys.Split.LLM_KV_SPLIT_NO, part)
        writer.add_uint16(library.Keys.Split.LLM_KV_SPLIT_COUNT, len(names))
        writer.add_int32(library.Keys.Split.LLM_KV_SPLIT_TENSORS_COUNT, len(whole.tensors))
        for key, field in whole.fields.items():
            if part == 0 and not key.startswith(("GGUF.", "general.architecture")):
                writer.add_key_value(key, field.contents(), field.types[0], field.types[1] if len(field.types) > 1 else None)
        for tensor in whole.tensors[part :: len(names)]:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return _parted("split_gguf", room, path, names, [gguf_file] * len(names))


def safetensors(room: Room) -> Target:
    """The file of weights beside a sound config."""
    tiny_checkpoint(folder=room.folder, **_SMALL)
    path = room.folder / WEIGHTS
    return Target(
        name="safetensors",
        seeds=[path.read_bytes()],
        prepare=path.write_bytes,
        read=lambda: look(room.folder),
        room=room,
        mutate=safetensors_file,
    )


def folder(room: Room) -> Target:
    """Every JSON file of a folder with an index, a manifest and a tokenizer."""
    tiny_checkpoint(folder=room.scratch / "base", **_SMALL)
    base, path = open_model(room.scratch / "base"), room.folder / "model"
    with CheckpointFolderWriter(base, path) as writer:
        for name in base.names():
            writer.add(name, np.asarray(base.tensor(name)))
    shard = "model-00001-of-00001.safetensors"
    shutil.move(path / WEIGHTS, path / shard)
    (path / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(base.names(), shard)}))
    manifest = json.loads((path / MANIFEST).read_text())
    for records in (value for value in manifest.values() if isinstance(value, dict)):
        records.pop(WEIGHTS, None)
    (path / MANIFEST).write_text(json.dumps(manifest))
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": [257, 259], "temperature": 0.6, "top_p": 0.9}))
    (path / "special_tokens_map.json").write_text(json.dumps({"bos_token": {"content": "<|bos|>"}, "eos_token": "<|eos|>"}))
    names = ("config.json", MANIFEST, INDEX, "generation_config.json", "special_tokens_map.json", "tokenizer_config.json")
    return _parted("folder", room, path, names, [json_file] * len(names))


def quantized(room: Room) -> Target:
    """Packed weights as compressed-tensors writes them: what config.json says of them, and their header."""
    base = tiny_checkpoint(folder=room.scratch / "base", **_SMALL)
    path = room.folder / "model"
    with CheckpointFolderWriter(open_model(room.scratch / "base"), path) as writer:
        for name, tensor in base.tensors.items():
            form = "zeros" if "up_proj" in name else "symmetric"
            writer.add(name, quantize(np.asarray(tensor), 4, form=form) if "proj" in name else tensor)
    (path / MANIFEST).unlink()  # its digests would refuse every change
    return _parted("quantized", room, path, ("config.json", WEIGHTS), [json_file, safetensors_file])


def _parted(name: str, room: Room, path: Path, names: Sequence[str], mutators: Sequence[Mutator]) -> Target:
    """A target that replaces one of several files of a folder; the others are whole."""
    whole = {name: (path / name).read_bytes() for name in names}
    beside = (path / MANIFEST).read_bytes() if (path / MANIFEST).is_file() else None

    def prepare(data: bytes) -> None:
        chosen = names[data[0] % len(names)] if data else names[0]
        for file, content in whole.items():
            (path / file).write_bytes(data[1:] if file == chosen else content)
        if beside is not None and chosen != MANIFEST:
            (path / MANIFEST).unlink()  # its digests would refuse every change

    return Target(
        name=name,
        seeds=[bytes([number]) + content for number, content in enumerate(whole.values())],
        prepare=prepare,
        read=lambda: look(path),
        room=room,
        mutate=parted(*mutators),
    )
