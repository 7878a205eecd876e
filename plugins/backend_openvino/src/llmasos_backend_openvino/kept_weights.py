"""Weights of a decoder as named parts of bytes and back, for where builds of sealed models are kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import attrs
import numpy as np
import numpy.typing as npt

from llmasos_backend_openvino.matrices import CodeMatrix, FloatMatrix, Matrix
from llmasos_backend_openvino.weights import Layer, Linear, Norm, WeightSource
from llmasos_decoder_kit.weights import Floats
from llmasos_hookspecs import DecoderConfig

_FACTS: Final = "facts"
_CLASSES: Final[dict[str, type]] = {each.__name__: each for each in (CodeMatrix, FloatMatrix, Layer, Linear, Norm)}


class KeptWeights:
    """Implements ``WeightSource`` over what another one gave before."""

    def __init__(self, config: DecoderConfig, parts: Mapping[str, npt.NDArray[np.uint8]]) -> None:
        """``parts``: what ``packed`` made of the weights of that decoder."""
        self._config = config
        self._parts = parts
        self._facts: dict[str, Any] = json.loads(parts[_FACTS].tobytes())

    @property
    def built(self) -> dict[str, Any]:
        """What was said of the graph when it was built."""
        found: dict[str, Any] = self._facts["built"]
        return found

    def layer(self, index: int) -> Layer:
        found: Layer = self._read(self._facts["layers"][index])
        return attrs.evolve(found, rope=self._config.layer(index).rope)

    def final_norm(self) -> Norm:
        found: Norm = self._read(self._facts["final_norm"])
        return found

    def embedding(self) -> Matrix:
        found: Matrix = self._read(self._facts["embedding"])
        return found

    def head(self) -> Matrix | None:
        found: Matrix | None = self._read(self._facts["head"])
        return found

    def head_bias(self) -> Floats | None:
        found: Floats | None = self._read(self._facts["head_bias"])
        return found

    def _read(self, told: Any) -> Any:
        if isinstance(told, list):
            return [self._read(each) for each in told]
        if not isinstance(told, dict):
            return told
        kind, fields = told["kind"], told["of"]
        if kind == "array":
            array = self._parts[fields["part"]].view(np.dtype(fields["dtype"])).reshape(fields["shape"])
            return np.require(array, requirements="CA")  # parts may begin anywhere
        found = {name: self._read(each) for name, each in fields.items()}
        return found if kind == "dict" else _CLASSES[kind](**found)


class Packing:
    """Implements ``WeightSource`` over another one, and remembers what it gave."""

    def __init__(self, source: WeightSource, layers: int) -> None:
        self._source = source
        self._parts: dict[str, npt.NDArray[np.uint8]] = {}
        self._facts: dict[str, Any] = {"layers": [None] * layers}

    def packed(self, built: Mapping[str, Any]) -> dict[str, npt.NDArray[np.uint8]]:
        """The parts, uint8 [n] each, of all that was asked for; ``built``: what is said of the graph."""
        facts = json.dumps({**self._facts, "built": built}).encode()
        return {_FACTS: np.frombuffer(facts, np.uint8), **self._parts}

    def layer(self, index: int) -> Layer:
        found = self._source.layer(index)
        self._facts["layers"][index] = self._told(attrs.evolve(found, rope=None))
        return found

    def final_norm(self) -> Norm:
        return self._remembered("final_norm", self._source.final_norm())

    def embedding(self) -> Matrix:
        return self._remembered("embedding", self._source.embedding())

    def head(self) -> Matrix | None:
        return self._remembered("head", self._source.head())

    def head_bias(self) -> Floats | None:
        return self._remembered("head_bias", self._source.head_bias())

    def _remembered(self, name: str, found: Any) -> Any:
        self._facts[name] = self._told(found)
        return found

    def _told(self, value: Any) -> Any:
        """Plain data about a value, whose arrays become parts."""
        if isinstance(value, np.ndarray):
            part = f"array {len(self._parts)}"
            self._parts[part] = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
            return {"kind": "array", "of": {"part": part, "dtype": value.dtype.name, "shape": list(value.shape)}}
        if isinstance(value, dict):
            return {"kind": "dict", "of": {name: self._told(each) for name, each in value.items()}}
        if isinstance(value, list | tuple):
            return [self._told(each) for each in value]
        if attrs.has(type(value)):
            fields = {field.name: self._told(getattr(value, field.name)) for field in attrs.fields(type(value))}
            return {"kind": type(value).__name__, "of": fields}
        return value
