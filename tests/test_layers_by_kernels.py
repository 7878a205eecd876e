"""Loaders whose layers the kernels of ``llmasos-kernels-cpu`` compute over memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

from llmasos_hookspecs import Checkpoint, ConfigError, EngineLimits, ModelClosed, Row
from llmasos_hookspecs.reference import ReferenceDecoder
from llmasos_hookspecs.testing import PluginSandbox, SandboxContext, TinyCheckpoint, quantize, tiny_checkpoint
from llmasos_hookspecs.testing.family_model import FAMILY_TOKENS, FamilyModel, all_logits, relative_difference
from llmasos_kernels_cpu import library

pytestmark = pytest.mark.skipif(library.chosen() == "scalar", reason="the processor has none of the instruction sets")

TOKENS = np.random.default_rng(3).integers(0, 40, 20).tolist()
LIMITS = EngineLimits(threads=1, max_sequences=4, context_length=64)


@attrs.frozen
class Loader:
    """A loader in a sandbox: ``name`` is also the value of its option ``kernels`` that leaves kernels of others out."""

    name: str
    root: Path
    engines: list[Any] = attrs.field(factory=list)

    @property
    def plugin(self) -> PluginSandbox:
        return PluginSandbox(f"llmasos_backend_{self.name}")

    @property
    def context(self) -> SandboxContext:
        return SandboxContext(root=self.root, limits=LIMITS)

    def options(self, **options: Any) -> Any:
        return self.plugin.options(**({"device": "cpu"} if self.name == "torch" else {}), **options)

    def start(self, checkpoint: Checkpoint, **options: Any) -> Any:
        self.engines.append(self.plugin.call("llmasos_load", checkpoint=checkpoint, options=self.options(**options), context=self.context))
        return self.engines[-1]

    def foresee(self, checkpoint: Checkpoint) -> int:
        """Bytes of weights that are expected of a load."""
        found = self.plugin.call("llmasos_predict", checkpoint=checkpoint, options=self.options(), context=self.context)
        assert found is not None
        return int(found.weight_bytes)


#: Of what the layers of a lib do for either loader, TensorFlow's is long.
BY_TORCH = pytest.mark.parametrize("loader", ["torch", pytest.param("tf", marks=pytest.mark.long)], indirect=True)


@pytest.fixture(params=["torch", "tf"])
def loader(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Loader]:
    yield from opened(request.param, tmp_path)


@pytest.fixture
def tf(tmp_path: Path) -> Iterator[Loader]:
    yield from opened("tf", tmp_path)


def opened(name: str, root: Path) -> Iterator[Loader]:
    pytest.importorskip(f"llmasos_backend_{name}")
    found = Loader(name, root)
    yield found
    for engine in found.engines:
        engine.shutdown()


def by_kernels(engine: Any) -> bool:
    """Whether kernels compute whole layers."""
    return type(engine._decoder).__name__ == "InstalledDecoder"


def coded(case: str, bits: Callable[[str], int | None] = lambda name: 4 if "proj.weight" in name else None) -> TinyCheckpoint:
    """A tiny decoder with the matrices that ``bits`` names in so many bits with minimums, and the others in float32."""
    base = tiny_checkpoint(case)
    codes = {name: quantize(np.asarray(base.tensors[name]), wide, 32, "minimums") for name in base.tensors if (wide := bits(name))}
    return attrs.evolve(base, tensors={**base.tensors, **codes})


def unlike(name: str) -> int | None:
    """As llama.cpp's Q4_K_M: values and what leaves a layer in more bits than the rest of it."""
    return None if "proj.weight" not in name else 6 if "v_proj" in name or "down_proj" in name else 4


#: Name -> the case that is stored in codes, of which all have fewer bits than some where ``unlike``. On each change one of each kind for
#: either loader: the layers are those of a lib.
CODED: dict[str, tuple[str, bool]] = {
    "llama": ("llama", False),
    "biases": ("llama-biases", False),
    "mistral": ("mistral", False),
    "qwen2": ("qwen2", False),
    "qwen3": ("qwen3", False),
    "tied": ("llama-rope3-tied", False),
    "unlike codes": ("llama-biases", True),
}
_SHORT = {("torch", "qwen3"), ("torch", "tied"), ("torch", "unlike codes"), ("tf", "mistral"), ("tf", "unlike codes")}


@pytest.mark.parametrize(
    ("loader", "name"),
    [pytest.param(loader, name, marks=[pytest.mark.long] * ((loader, name) not in _SHORT)) for loader in ("torch", "tf") for name in CODED],
    indirect=["loader"],
)
def test_they_compute_what_the_codes_stand_for(name: str, loader: Loader) -> None:
    """With biases, windows, shared keys and normed heads, in a prompt and token by token; activations are rounded to 8 bits."""
    case, mixed = CODED[name]
    checkpoint = coded(case, unlike) if mixed else coded(case)
    engine = loader.start(checkpoint)
    assert by_kernels(engine)
    slot = engine.open()
    found = np.concatenate([all_logits(engine, slot, TOKENS[:12]), *(all_logits(engine, slot, [TOKENS[at]], at) for at in range(12, 20))])
    assert relative_difference(found, ReferenceDecoder(checkpoint).logits(TOKENS)) < 0.05
    assert loader.foresee(checkpoint) == pytest.approx(engine.info.weight_bytes, rel=0.02)


@BY_TORCH
def test_activations_in_bfloat16_are_nearer(loader: Loader) -> None:
    """A quarter of the rounding, where they are asked for by name."""
    checkpoint = tiny_checkpoint("llama-q4-minimums")
    expected = ReferenceDecoder(checkpoint).logits(TOKENS)
    errors = {}
    for kernels in ("cpu", "cpu_bf16"):
        engine = loader.start(checkpoint, kernels=kernels)
        errors[kernels] = relative_difference(all_logits(engine, engine.open(), TOKENS), expected)
    assert 0 < errors["cpu_bf16"] < 0.6 * errors["cpu"]


@pytest.mark.parametrize("case", ["llama", pytest.param("qwen3", marks=pytest.mark.long)])
def test_a_token_has_the_same_logits_alone_in_a_batch_as_a_draft_and_in_a_fork(case: str, loader: Loader) -> None:
    engine = loader.start(coded(case, lambda name: 4 if "proj.weight" in name or "lm_head" in name else None))
    assert by_kernels(engine)
    alone = engine.open()
    expected = np.concatenate([all_logits(engine, alone, [token], at) for at, token in enumerate(TOKENS)])
    prompt, draft = engine.open(), engine.open()
    found = engine.step([Row(prompt, TOKENS[:7], 0, "all"), Row(draft, TOKENS[:1], 0)])
    np.testing.assert_array_equal(found[0], expected[:7])
    np.testing.assert_array_equal(found[1], expected[:1])
    fork = engine.fork(prompt)
    engine.truncate(fork, 5)
    engine.truncate(alone, 19)
    rows = [
        Row(fork, TOKENS[5:6], 5),
        Row(prompt, TOKENS[7:20], 7, "all"),
        Row(alone, TOKENS[19:], 19),
        Row(draft, TOKENS[1:4], 1, "all", generated=True),
    ]
    wanted = (expected[5:6], expected[7:20], expected[19:], expected[1:4])
    for mine, theirs in zip(engine.step(rows), wanted, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_other_options_leave_them_out(loader: Loader) -> None:
    checkpoint = coded("llama")
    assert not by_kernels(loader.start(checkpoint, kernels=loader.name))
    floats = {"torch": {"dtype": "float32"}, "tf": {"precision": "fp32"}}
    assert not by_kernels(loader.start(checkpoint, **floats[loader.name]))


@BY_TORCH
def test_a_layer_with_a_matrix_in_floats_is_left_to_the_loader(loader: Loader) -> None:
    checkpoint = coded("llama", lambda name: 4 if "proj.weight" in name and "layers.1.mlp.down" not in name else None)
    engine = loader.start(checkpoint)
    assert not by_kernels(engine)
    found = all_logits(engine, engine.open(), TOKENS)
    assert relative_difference(found, ReferenceDecoder(checkpoint).logits(TOKENS)) < 0.05


def test_unknown_kernels_are_refused(loader: Loader) -> None:
    with pytest.raises(ConfigError, match=r'kernels is "fpga".*pip install llmasos-kernels-fpga'):
        loader.start(coded("llama"), kernels="fpga")


def test_torch_has_kernels_of_its_own_for_8_bits(tmp_path: Path) -> None:
    for loader in opened("torch", tmp_path):
        assert not by_kernels(loader.start(tiny_checkpoint("llama-q8"), kernels="cpu"))


def test_chunks_of_a_prompt_change_no_bit(tf: Loader) -> None:
    """A step of two prompts and a token, 8 tokens at a time and at once, of which one prompt wants no logits."""
    found = []
    for chunk in (8, 256):
        engine = tf.start(tiny_checkpoint("llama-q8"), prefill_chunk=chunk)
        slots = [engine.open() for _ in range(3)]
        engine.step([Row(slots[0], TOKENS, 0, "none")])
        found.append(engine.step([Row(slots[1], TOKENS, 0, "all"), Row(slots[0], [7], 20), Row(slots[2], TOKENS[:13], 0, "none")]))
        assert [len(each) for each in found[-1]] == [20, 1, 0]
    np.testing.assert_array_equal(np.concatenate(found[0]), np.concatenate(found[1]))


def test_an_engine_that_was_shut_down_computes_nothing(tf: Loader) -> None:
    engine = tf.start(tiny_checkpoint("llama-q8"))
    engine.shutdown()
    with pytest.raises(ModelClosed):
        engine.open()


@pytest.mark.parametrize("kind", ["gemma2", pytest.param("phi", marks=pytest.mark.long)])
def test_products_of_other_layers_are_theirs(kind: str, tf: Loader, tmp_path: Path) -> None:
    """Layer norms, other activations, parallel blocks and softcaps are TensorFlow's; the logits differ by rounding alone."""
    from llmasos_backend_tf.linear import KernelMatrix

    made = FamilyModel(kind, {"num_hidden_layers": 2})
    made.quantize()
    engine = tf.start(made)
    assert not by_kernels(engine)
    layer = engine._decoder._layers[0]
    assert all(isinstance(linear.matrix, KernelMatrix) for linear in (layer.qkv, layer.o, layer.up, layer.down))
    slot = engine.open()
    pieces = [all_logits(engine, slot, FAMILY_TOKENS[start:end], start) for start, end in ((0, 7), (7, 8), (8, 40))]
    assert relative_difference(np.concatenate(pieces), made.logits(FAMILY_TOKENS[:40])) < 0.05
    assert tf.foresee(made) == pytest.approx(engine.info.weight_bytes, rel=0.05)
