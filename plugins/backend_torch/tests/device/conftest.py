"""A device that is not the CPU, for machines without one: its tensors are computed on the CPU, but nothing mixes with the CPU's own.

What a GPU refuses this refuses too, an operation on tensors of two devices above all; and it counts what crosses between them, which on a
GPU waits for all that was launched before. It says nothing of kernels: those are the CPU's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import attrs
import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

DEVICE: Final = torch.device("privateuseone", 0)
_CPU: Final = torch.device("cpu")
_aten: Final = torch.ops.aten

#: Operations that read a device's numbers into Python, or whose result's size depends on them.
_READS: Final = {
    _aten._local_scalar_dense.default,
    _aten.nonzero.default,
    _aten.masked_select.default,
    _aten.equal.default,
    _aten.is_nonzero.default,
}


@attrs.define
class Traffic:
    """What crossed between the CPU and ``device``: bytes of each copy to it and from it; ``sealed`` forbids any."""

    device: torch.device = DEVICE
    to_device: list[int] = attrs.field(factory=list)
    from_device: list[int] = attrs.field(factory=list)
    sealed: bool = False

    def forget(self) -> None:
        self.to_device.clear()
        self.from_device.clear()

    def count(self, way: list[int], size: int, what: object) -> None:
        if self.sealed:
            raise RuntimeError(f"{what} crosses between devices inside a recorded step.")
        way.append(size)


class DeviceTensor(Tensor):
    """A tensor on ``DEVICE``; ``inner`` holds its numbers."""

    inner: Tensor

    @staticmethod
    def __new__(cls: type[DeviceTensor], inner: Tensor) -> DeviceTensor:
        with torch.inference_mode(False):  # else a view of what was made outside of that mode would be of two kinds
            made: DeviceTensor = Tensor._make_wrapper_subclass(
                cls,
                inner.shape,
                strides=inner.stride(),
                storage_offset=inner.storage_offset(),
                dtype=inner.dtype,
                layout=inner.layout,
                device=DEVICE,
            )
        made.inner = inner
        return made

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"DeviceTensor({self.inner!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} ran without the simulated device.")


class _Dispatch(TorchDispatchMode):
    def __init__(self, traffic: Traffic) -> None:
        super().__init__()
        self._traffic = traffic

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        tensors = _tensors((args, kwargs))
        on_device = [tensor for tensor in tensors if isinstance(tensor, DeviceTensor)]
        target = None if kwargs.get("device") is None else torch.device(kwargs["device"])
        with self:  # of what is made of other operations, each is looked at by itself
            if (found := func.decompose(*args, **kwargs)) is not NotImplemented:
                return found
        if not on_device and (target is None or target.type != DEVICE.type):
            return func(*args, **kwargs)
        if func is _aten._to_copy.default and target is not None:
            return self._move(args[0], target, kwargs)
        if func is _aten.copy_.default and isinstance(args[0], DeviceTensor) != isinstance(args[1], DeviceTensor):
            way = self._traffic.to_device if isinstance(args[0], DeviceTensor) else self._traffic.from_device
            self._traffic.count(way, args[1].nbytes, func)
        elif on_device and (alien := [each for each in tensors if not isinstance(each, DeviceTensor) and each.dim()]):
            raise RuntimeError(f"{func} mixes tensors on {DEVICE} with {len(alien)} on the CPU.")
        if func in _READS:
            self._traffic.count(self._traffic.from_device, 8, func)
        if target is not None:
            kwargs["device"] = _CPU
        found = func(*_map(_inner, args), **_map(_inner, kwargs))
        if func is _aten._local_scalar_dense.default:
            return found
        return return_and_correct_aliasing(func, args, kwargs, _map(_wrap, found))

    def _move(self, tensor: Tensor, target: torch.device, kwargs: dict[str, Any]) -> Tensor:
        inner = _inner(tensor)
        moved: Tensor = _aten._to_copy.default(inner, **{**kwargs, "device": _CPU, "non_blocking": False})
        if isinstance(tensor, DeviceTensor) != (target.type == DEVICE.type):
            way = self._traffic.from_device if isinstance(tensor, DeviceTensor) else self._traffic.to_device
            self._traffic.count(way, inner.nbytes, "a copy")
        return DeviceTensor(moved) if target.type == DEVICE.type else moved


class _Functions(TorchFunctionMode):
    """Attention picks a kernel by device before anything is dispatched, and ``torch.tensor`` dispatches nothing: these are taken whole."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.tensor and kwargs.get("device") is not None and torch.device(kwargs["device"]).type == DEVICE.type:
            return torch.tensor(*args, **{**kwargs, "device": _CPU}).to(kwargs["device"])
        if func is Tensor.tolist and isinstance(args[0], DeviceTensor):
            return args[0].cpu().tolist()
        if func is torch.nn.functional.scaled_dot_product_attention:
            tensors = _tensors((args, kwargs))
            if any(isinstance(each, DeviceTensor) for each in tensors):
                assert all(isinstance(each, DeviceTensor) for each in tensors), "attention mixes tensors of two devices."
                return DeviceTensor(func(*_map(_inner, args), **_map(_inner, kwargs)))
        return func(*args, **kwargs)


@pytest.fixture(scope="session")
def device_type() -> None:
    """PyTorch knows the simulated device's type, once a process."""
    _setup_privateuseone_for_python_backend()


@pytest.fixture
def traffic(device_type: None) -> Iterator[Traffic]:
    """In a test with this fixture tensors can be made on ``traffic.device`` and moved there."""
    traffic = Traffic()
    with _Functions(), _Dispatch(traffic):
        yield traffic


def _inner(value: Any) -> Any:
    return value.inner if isinstance(value, DeviceTensor) else value


def _wrap(value: Any) -> Any:
    return DeviceTensor(value) if isinstance(value, Tensor) and not isinstance(value, DeviceTensor) else value


def _map(change: Any, values: Any) -> Any:
    """torch's ``tree_map``, several times as fast for plain collections, which nearly all arguments are."""
    kind = type(values)
    if kind is tuple or kind is list:
        return kind([_map(change, value) for value in values])
    if kind is dict:
        return {key: _map(change, value) for key, value in values.items()}
    return tree_map(change, values) if isinstance(values, tuple | list | dict) else change(values)


def _tensors(values: Any) -> list[Tensor]:
    found: list[Tensor] = []
    _map(lambda value: found.append(value) if isinstance(value, Tensor) else None, values)
    return found
