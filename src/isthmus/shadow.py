"""Computation without memory: tensors that have a shape, a dtype and a device, and no storage behind them.

What runs inside `Shadow` runs the same operations in the same order as it would on numbers, so that the bytes alive at
each moment can be counted (torch's FakeTensorMode gives the shapes). Where a size depends on numbers, as the length of
a text does on its mask, those numbers are there: whatever is computed of given ids and masks alone has its values.
"""

import weakref
from collections.abc import Iterable
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
    unset_fake_temporarily,
)
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

_SMALL = 1 << 20
"""Elements of the largest tensor whose values are kept: ids, masks and what is drawn by them are far smaller."""

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")

_VALUES_DECIDE = (DataDependentOutputException, DynamicOutputShapeException)


class _Copies(TorchFunctionMode):
    """A deep copy, as of a cache of keys and values, goes around all operations; here it is one."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__deepcopy__:
            return args[0].clone()
        return func(*args, **(kwargs or {}))


class Shadow(TorchDispatchMode):
    """Within it every new tensor is without storage; `now` and `peak` count the bytes that it would take.

    A tensor's storage is counted once, from the operation that makes it until nothing holds it any more. What a kernel
    takes for itself and gives back before it returns is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.peak = 0
        self._copies = _Copies()
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)
        self._alive: dict[int, int] = {}

    def __enter__(self) -> "Shadow":
        self._mode.__enter__()
        self._copies.__enter__()
        super().__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self._copies.__exit__(kind, error, trace)
        self._mode.__exit__(kind, error, trace)

    def mark(self) -> None:
        """Look for a new peak from here on."""
        self.peak = self.now

    def blank(self, *shape: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """A tensor of which nothing is known but its shape; within the shadow."""
        made = torch.empty(shape, dtype=dtype, device=device)
        assert isinstance(made, FakeTensor)
        made.real_tensor = None
        return made

    def settle(self, module: nn.Module, device: torch.device) -> None:
        """Put a module that was built on `meta` on a device, in place; tensors that are shared stay shared."""
        settled: dict[int, Tensor] = {}
        for part in module.modules():
            for held in (part._parameters, part._buffers):
                for name, old in held.items():
                    if old is not None and id(old) not in settled:
                        new = self.blank(*old.shape, dtype=old.dtype, device=device)
                        is_parameter = isinstance(old, nn.Parameter)
                        settled[id(old)] = nn.Parameter(new, requires_grad=old.requires_grad) if is_parameter else new
                    held[name] = None if old is None else settled[id(old)]  # type: ignore[assignment]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        try:
            made = func(*args, **kwargs)
        except _VALUES_DECIDE:
            values = self._compute(func, args, kwargs)
            made = tree_map(self._shadow_of, values)
        else:
            values = self._compute(func, args, kwargs) if self._is_known(made, (args, kwargs)) else None
        for tensor, value in zip(tree_leaves(made), tree_leaves(values) if values is not None else (), strict=False):
            if isinstance(tensor, FakeTensor):
                tensor.real_tensor = value
        for tensor in tree_leaves(made):
            if isinstance(tensor, FakeTensor):
                self._register(tensor)
                if tensor.dtype == torch.long and tensor.real_tensor is None and tensor.numel() <= _SMALL:
                    tensor.real_tensor = self._value_of(tensor)  # which rows a weight would choose: the first
        return made

    def _is_known(self, made: Any, given: Any) -> bool:
        """Whether values are computed too: of small tensors all of whose origins have theirs."""
        tensors = [one for one in tree_leaves(made) if isinstance(one, Tensor)]
        if not tensors or any(one.numel() > _SMALL for one in tensors):
            return False
        return all(one.real_tensor is not None for one in tree_leaves(given) if isinstance(one, FakeTensor))

    def _compute(self, func: Any, args: Any, kwargs: Any) -> Any:
        args, kwargs = tree_map(self._value_of, (args, kwargs))
        with unset_fake_temporarily():
            return func(*args, **kwargs)

    def _value_of(self, given: Any) -> Any:
        """A tensor's values. Those that a weight would decide cannot be known before the run: zeros."""
        if not isinstance(given, FakeTensor):
            return given
        if given.real_tensor is None:
            with unset_fake_temporarily():
                return torch.zeros(given.shape, dtype=given.dtype, device=given.device)
        return given.real_tensor

    def _shadow_of(self, value: Any) -> Any:
        return self._mode.from_tensor(value) if isinstance(value, Tensor) else value

    def _register(self, tensor: Tensor) -> None:
        if tensor.layout is not torch.strided:
            return  # some rows of a gradient, until they are added to the rest of it
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._alive:
            return
        self._alive[key] = storage.nbytes()
        self.now += self._alive[key]
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._release, key)

    def _release(self, key: int) -> None:
        self.now -= self._alive.pop(key)


def storage_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the different storages behind some tensors."""
    return sum({one.untyped_storage()._cdata: one.untyped_storage().nbytes() for one in tensors}.values())


def binary(size: int) -> str:
    """Bytes in the largest binary unit that leaves 1 or more."""
    number, unit = float(size), 0
    while number >= 1024 and unit < len(_UNITS) - 1:
        number, unit = number / 1024, unit + 1
    return f"{number:.4g} {_UNITS[unit]}"
