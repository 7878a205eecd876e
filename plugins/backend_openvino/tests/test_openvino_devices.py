"""The option ``device``: what is there, what each computes in, and keys and values in another layout than the CPU's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from llmasos_backend_openvino import Options, devices
from llmasos_backend_openvino.layout import compiled_layout
from llmasos_backend_openvino.memory import predict
from llmasos_backend_openvino.precision import chosen_precision, rounds_activations
from llmasos_backend_openvino.runtime import ov
from llmasos_hookspecs import ConfigError, ResourceError, Row, UnsupportedModel
from llmasos_hookspecs.reference import ReferenceDecoder
from llmasos_hookspecs.testing import tiny_checkpoint

from . import other_device
from .other_device import OtherCore

CHECKPOINT = tiny_checkpoint("llama")
TOKENS = [int(token) for token in np.random.default_rng(1).integers(0, 256, 70)]


@pytest.fixture
def others(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[OtherCore]]:
    """A machine with a GPU and an NPU."""
    monkeypatch.setattr(ov, "Core", OtherCore)
    OtherCore.settings.clear()
    for asked in (devices.capabilities, devices.properties):
        asked.cache_clear()
    yield OtherCore
    for asked in (devices.capabilities, devices.properties):
        asked.cache_clear()


def fed(engine: Any, *rows: tuple[int, list[int], int]) -> list[Any]:
    return [np.array(each) for each in engine.step([Row(slot, tokens, at, "all") for slot, tokens, at in rows])]


def close_to(got: Any, tokens: list[int], error: float = 2e-6) -> bool:
    """Whether logits are those of the last of the tokens, up to a relative error."""
    want = ReferenceDecoder(CHECKPOINT).logits(tokens)[-len(got) :]
    return bool(np.linalg.norm(got - want) <= error * np.linalg.norm(want))


def test_a_device_that_is_not_there_is_refused_with_those_that_are(start: Any) -> None:
    """By the real OpenVINO, which finds at least the CPU."""
    found = ", ".join(ov.Core().available_devices)
    with pytest.raises(ConfigError, match=rf"device is 'TPU', and the devices that OpenVINO finds on this machine are {found}"):
        start(CHECKPOINT, {"device": "TPU"})


@pytest.mark.usefixtures("others")
def test_the_nearest_name_is_told(start: Any) -> None:
    """Names are OpenVINO's own, in capitals; a kind stands for its first device."""
    with pytest.raises(ConfigError, match=r'are CPU, GPU\.0, GPU\.1, NPU; did you mean "GPU"\?'):
        start(CHECKPOINT, {"device": "gpu"})
    assert devices.chosen_device(Options(device="GPU")) == "GPU"
    assert devices.chosen_device(Options(device="GPU.1")) == "GPU.1"


def test_another_device_keeps_keys_and_values_in_its_own_layout(start: Any, others: type[OtherCore]) -> None:
    """Blocks of its size and in its memory; a fork shares them until one side writes, and prompts and decoded tokens share a call."""
    engine = start(CHECKPOINT, {"device": "GPU"}, context_length=96)
    assert engine.info.device == "gpu"
    assert engine._pool.layout.block == other_device.BLOCK
    assert [cache.shape for cache in engine._pool.layout.caches[:2]] == [(2, 16, 16), (2, 16, 16)]
    whole, (one, two) = engine._pool.free, (engine.open(), engine.open())
    assert close_to(*fed(engine, (one, TOKENS[:20], 0)), TOKENS[:20])
    fork = engine.fork(one)
    assert engine._pool.free == whole - 2
    together = fed(engine, (one, TOKENS[20:21], 20), (two, TOKENS[30:70], 0))
    assert close_to(together[0], TOKENS[:21])
    assert close_to(together[1], TOKENS[30:70])
    assert engine._pool.free == whole - 3 - 3  # the last block of the fork is its own
    assert close_to(*fed(engine, (fork, TOKENS[40:44], 20)), TOKENS[:20] + TOKENS[40:44])
    engine.truncate(one, 10)
    assert close_to(*fed(engine, (one, TOKENS[50:60], 10)), TOKENS[:10] + TOKENS[50:60])


def test_a_device_is_given_only_what_can_be_set_for_it(start: Any, others: type[OtherCore]) -> None:
    """Threads and pinning are the CPU's; its graph is the one that a CPU has."""
    start(CHECKPOINT, {"device": "GPU.1"})
    assert others.settings == [{"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32", "NUM_STREAMS": "1"}]


def test_a_graph_serves_every_device(start: Any, others: type[OtherCore], tmp_path: Path) -> None:
    """In one precision it is the same, and is kept once."""
    for device in ("CPU", "GPU"):
        start(CHECKPOINT, {"device": device})
    assert len(list(tmp_path.rglob("decoder.xml"))) == 1


@pytest.mark.usefixtures("others")
def test_other_devices_compute_in_float16() -> None:
    """By ``auto``, with activations as they are; half the memory is foreseen."""
    assert chosen_precision(Options(device="GPU")) == "f16"
    assert not rounds_activations(Options(device="GPU"))
    wide, narrow = (predict(CHECKPOINT, Options(device="GPU", precision=precision)) for precision in ("f32", "f16"))
    assert wide is not None
    assert narrow is not None
    assert wide.kv_bytes_per_token == 2 * narrow.kv_bytes_per_token
    with pytest.raises(ConfigError, match="'bf16', which OpenVINO does not compute in on this machine's GPU"):
        chosen_precision(Options(device="GPU", precision="bf16"))


@pytest.mark.usefixtures("others")
def test_a_graph_in_float16_is_the_same_decoder(start: Any) -> None:
    """Its weights, keys and values have ten bits of fraction."""
    engine = start(CHECKPOINT, {"device": "GPU", "precision": "auto"})
    assert (engine.info.dtype, engine._pool.memory.tensors[0].element_type) == ("float16", ov.Type.f16)
    slot = engine.open()
    assert close_to(*fed(engine, (slot, TOKENS[:20], 0)), TOKENS[:20], error=2e-3)
    assert close_to(*fed(engine, (slot, TOKENS[20:40], 20)), TOKENS[:40], error=2e-3)


def test_the_memory_of_a_device_bounds_what_is_kept_in_it(start: Any, others: type[OtherCore], monkeypatch: pytest.MonkeyPatch) -> None:
    """As a memory limit does; and a device that gives less than it says gets a sentence."""
    weights = start(CHECKPOINT, {"device": "GPU"}).info.weight_bytes
    block = other_device.BLOCK * 2 * 2 * 2 * 16 * 4  # keys and values of 2 layers with 2 heads of 16 floats
    monkeypatch.setattr(others, "memory", weights + 10 * block)
    assert start(CHECKPOINT, {"device": "GPU"}).info.context_length == 10 * other_device.BLOCK
    monkeypatch.setattr(others, "memory", weights + 3 * block)
    with pytest.raises(ResourceError, match="too small"):
        start(CHECKPOINT, {"device": "GPU"})
    monkeypatch.setattr("llmasos_backend_openvino.loading.memory_of", lambda _: None)
    monkeypatch.setattr(others, "memory", 1000)
    with pytest.raises(ResourceError, match="GPU gives no memory for"):
        start(CHECKPOINT, {"device": "GPU"})


@pytest.mark.usefixtures("others")
def test_a_device_without_paged_attention_is_refused(start: Any) -> None:
    """With OpenVINO's reason; and so are capped scores on any device but the CPU."""
    with pytest.raises(UnsupportedModel, match=r'PagedAttention for NPU: .* is not supported; set loader\.device to "CPU"'):
        start(CHECKPOINT, {"device": "NPU"})
    with pytest.raises(UnsupportedModel, match=r'on CPUs alone; set loader\.device to "CPU"'):
        start(tiny_checkpoint("gemma2"), {"device": "GPU"})


_WHOLE = [-1, 2, 32, 16]


@pytest.mark.parametrize(
    ("shapes", "kind"), [([[-1] * 4] * 2, "f32"), ([_WHOLE] * 2, "dynamic"), ([_WHOLE, _WHOLE, _WHOLE, [-1, 2, 16, 16]], "f32")]
)
def test_a_layout_that_is_not_told_is_refused(shapes: list[list[int]], kind: str) -> None:
    """Sizes or types that are open, and blocks of several sizes."""
    ports = [
        SimpleNamespace(
            get_any_name=lambda at=at: f"{('key', 'value')[at % 2]}_cache.{at // 2}",
            partial_shape=ov.PartialShape(shape),
            element_type=getattr(ov.Type, kind),
        )
        for at, shape in enumerate(shapes)
    ]
    with pytest.raises(UnsupportedModel, match=r"keys and values on GPU in no blocks of one size \("):
        compiled_layout(SimpleNamespace(inputs=ports), "GPU")
