"""Conformance tests of loaders whose engines compute LoRA adapters, and a reference engine that does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import attrs
import numpy as np
import numpy.typing as npt
import pytest

from llmasos_hookspecs.adapters import Adapter, LowRank
from llmasos_hookspecs.context import EngineLimits
from llmasos_hookspecs.engine import EngineInfo, Row
from llmasos_hookspecs.errors import RequestError, UnsupportedModel
from llmasos_hookspecs.reference import ReferenceDecoder
from llmasos_hookspecs.tensors import Tensor
from llmasos_hookspecs.testing.checkpoints import TinyCheckpoint, tiny_checkpoint
from llmasos_hookspecs.testing.engine import ReferenceEngine
from llmasos_hookspecs.testing.engine_under_test import CONSISTENCY
from llmasos_hookspecs.testing.plugin import PluginConformance
from llmasos_hookspecs.testing.sandbox import PluginSandbox, SandboxContext

_TOKENS = (72, 101, 108, 108, 111, 32, 119)
_LAYERS = ("self_attn.q_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj")


def tiny_adapter(checkpoint: TinyCheckpoint, name: str, seed: int, rank: int = 2) -> Adapter:
    """An adapter of random changes that are as large as the weights."""
    random = np.random.default_rng(seed)

    def matrix(rows: int, columns: int) -> npt.NDArray[np.float32]:
        return random.standard_normal((rows, columns)).astype(np.float32) * np.float32(0.2)

    layers = {}
    for layer in range(checkpoint.decoder.num_layers):
        for part in _LAYERS:
            rows, columns = checkpoint.shape(f"model.layers.{layer}.{part}.weight")
            layers[f"model.layers.{layer}.{part}"] = LowRank(matrix(rank, columns), matrix(rows, rank))
    return Adapter(name, f"{seed:064x}", layers)


def merged(checkpoint: TinyCheckpoint, adapter: Adapter) -> TinyCheckpoint:
    """The checkpoint with the adapter in its weights. Raises ``UnsupportedModel`` where it is of another model."""
    tensors: dict[str, Tensor] = {name: checkpoint.tensor(name) for name in checkpoint.names()}
    for layer, change in adapter.layers.items():
        weight: Any = tensors.get(f"{layer}.weight")
        if weight is None or weight.shape != (change.up.shape[0], change.down.shape[1]):
            raise UnsupportedModel(f"The adapter {adapter.name} changes {layer}, which this model lacks, or has in another size.")
        tensors[f"{layer}.weight"] = weight + change.up @ change.down
    return TinyCheckpoint(config=checkpoint.config, tensors=tensors)


class ReferenceAdapterEngine(ReferenceEngine):
    """A ``ReferenceEngine`` with a merged decoder for each adapter."""

    def __init__(self, checkpoint: TinyCheckpoint, adapters: Mapping[str, Adapter], limits: EngineLimits | None = None) -> None:
        super().__init__(checkpoint, limits)
        self._plain = self.decoder
        self._merged = {name: ReferenceDecoder(merged(checkpoint, each)) for name, each in adapters.items()}
        info = super().info
        self._adapter_info = attrs.evolve(info, features=info.features - {"sampling", "embeddings"}, adapters=tuple(adapters))

    @property
    def info(self) -> EngineInfo:
        return self._adapter_info

    def step(self, rows: Sequence[Row]) -> list[npt.NDArray[Any]]:
        for row in rows:
            if row.adapter and row.adapter not in self._merged:
                raise RequestError(f"The row of slot {row.slot} names the adapter {row.adapter!r}, and the engine has none of that name.")
        self._check(rows)
        found: list[npt.NDArray[Any]] = []
        for row in rows:
            self.decoder = self._merged.get(row.adapter, self._plain)
            try:
                found += super().step([row])
            finally:
                self.decoder = self._plain
        return found


class AdapterConformance(PluginConformance, standard=True):
    """Subclass it beside ``LoaderConformance`` where a loader's component says that it computes adapters::

        class TestAdapters(AdapterConformance):
            module = "llmasos_backend_mine"

    Attributes:
        case: name of one of ``CASES``.
        consistency: largest relative error to the model that an adapter is merged into; None: by the engine's dtype.
    """

    kind = "loader"
    case: ClassVar[str] = "llama"
    consistency: ClassVar[float | None] = None

    @classmethod
    def load(cls, sandbox: PluginSandbox, root: Path, adapters: Sequence[Adapter]) -> Any:
        """The engine of the case with these adapters."""
        checkpoint = tiny_checkpoint(cls.case, folder=root / "model")
        limits = EngineLimits(threads=1, max_sequences=4)
        context = SandboxContext(root=root, limits=limits, adapters={each.name: each for each in adapters})
        return sandbox.call("llmasos_load", checkpoint=checkpoint, options=cls.plugin_options(sandbox), context=context)

    @pytest.fixture(scope="class")
    @classmethod
    def adapters(cls) -> tuple[Adapter, ...]:
        """Two adapters of unequal rank."""
        return tuple(tiny_adapter(tiny_checkpoint(cls.case), name, seed, rank=1 + seed) for seed, name in enumerate(("one", "two"), 1))

    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls, sandbox: PluginSandbox, adapters: tuple[Adapter, ...], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
        """The engine, shared by the tests."""
        engine = cls.load(sandbox, tmp_path_factory.mktemp("loader"), adapters)
        yield engine
        engine.shutdown()

    def agree(self, engine: Any, got: Any, adapter: Adapter | None, what: str) -> None:
        """Fail where logits differ from those of the merged model by more than rounding."""
        checkpoint = tiny_checkpoint(self.case)
        expected = ReferenceDecoder(checkpoint if adapter is None else merged(checkpoint, adapter)).logits(list(_TOKENS))[-len(got) :]
        worst = float((np.linalg.norm(got - expected, axis=-1) / np.linalg.norm(expected, axis=-1)).max())
        bound = CONSISTENCY.get(engine.info.dtype, 0.1) if self.consistency is None else self.consistency
        assert worst <= bound, f"{what}: the relative error to the merged model is {worst:.3g}, over {bound:g}."

    def test_info_is_true(self, engine: Any, sandbox: PluginSandbox, adapters: tuple[Adapter, ...]) -> None:
        """The component says that it computes adapters, and the engine names them."""
        assert sandbox.component.adapters, "The component must say adapters=True, so that models with adapters are loaded by it."
        assert engine.info.adapters == tuple(each.name for each in adapters), "EngineInfo.adapters must name those of context.adapters."

    def test_rows_of_several_adapters_in_one_step(self, engine: Any, adapters: tuple[Adapter, ...]) -> None:
        """Each row, whole and token by token, gives the logits of the model that its adapter is merged into; so does one without."""
        chosen = [*adapters, None][: engine.info.max_sequences]
        slots = [engine.open() for _ in chosen]
        try:
            got: list[list[Any]] = [[] for _ in chosen]
            size = len(_TOKENS)
            for start, end in ((0, 3), (3, 4), (4, size)):
                names = ["" if each is None else each.name for each in chosen]
                rows = [Row(slot, _TOKENS[start:end], start, "all", adapter=name) for slot, name in zip(slots, names, strict=True)]
                for place, result in enumerate(engine.step(rows)):
                    got[place].append(np.array(result))
            for adapter, parts in zip(chosen, got, strict=True):
                self.agree(engine, np.concatenate(parts), adapter, f"a row {f'with {adapter.name}' if adapter else 'without an adapter'}")
        finally:
            for slot in slots:
                engine.close(slot)

    def test_an_unknown_adapter_changes_nothing(self, engine: Any, adapters: tuple[Adapter, ...]) -> None:
        """A row that names none of the adapters is refused, and the slot is as it was."""
        slot = engine.open()
        try:
            with pytest.raises(RequestError):
                engine.step([Row(slot, _TOKENS, 0, "all", adapter="nobody's")])
            (got,) = engine.step([Row(slot, _TOKENS, 0, "all", adapter=adapters[0].name)])
            self.agree(engine, got, adapters[0], "a row after one that was refused")
        finally:
            engine.close(slot)

    @pytest.mark.parametrize("wrong", ["another layer", "another size"])
    def test_adapters_of_other_models_are_refused(
        self, sandbox: PluginSandbox, adapters: tuple[Adapter, ...], wrong: str, tmp_path: Path
    ) -> None:
        """None of what an adapter changes may be left out silently."""
        name, change = next(iter(adapters[0].layers.items()))
        layers = {"model.layers.99.mlp.up_proj": change} if wrong == "another layer" else {name: LowRank(change.down[:, 1:], change.up)}
        with pytest.raises(UnsupportedModel):
            self.load(sandbox, tmp_path, [attrs.evolve(adapters[0], layers={**adapters[0].layers, **layers})]).shutdown()
