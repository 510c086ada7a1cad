"""A GPU that is only pretended: torch computes on the CPU, and refuses what it would refuse with a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

_SETS_DATA = Tensor.data.__set__  # type: ignore[attr-defined]
_TELLS_DEVICE = Tensor.device.__get__  # type: ignore[attr-defined]
_TAKES_DEVICE = (torch._C._nn._parse_to, torch.device)
_MAY_MIX = (Tensor.to, Tensor.cpu, Tensor.copy_, torch.as_tensor, _SETS_DATA, torch._has_compatible_shallow_copy_type)
_INDEXES = (Tensor.__getitem__, Tensor.__setitem__)
_LOOKS_INSIDE = (Tensor.numpy, Tensor.__array__)


class PretendedGPU(TorchFunctionMode):
    """While it is entered, tensors that are made on or moved to ``cuda`` say that they lie there.

    What needs tensors of one device fails with tensors of both, as does a look into the GPU's memory from the host.
    ``copied`` are the shapes of the tensors, not of single numbers, that came to the host.
    """

    def __init__(self) -> None:
        super().__init__()
        self.copied: list[tuple[int, ...]] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Compute on the CPU, and note where the result would lie."""
        if func in _TAKES_DEVICE:
            return func(*args, **kwargs or {})
        if func == Tensor.__deepcopy__:
            return _put(func(*args), lies_there(args[0]), [])
        if func == _TELLS_DEVICE:
            return torch.device("cuda:0" if lies_there(args[0]) else "cpu")
        given = (args, kwargs or {})
        leaves = tree_leaves(given)
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        if func in _INDEXES and lies_there(args[0]):
            # A GPU takes indices from the host.
            tensors = tensors[:1]
        sides = {lies_there(tensor) for tensor in tensors if tensor.dim()}
        if len(sides) > 1 and func not in _MAY_MIX:
            raise RuntimeError(f"{func} of tensors on the host and on the GPU")
        if func in _LOOKS_INSIDE and True in sides:
            raise TypeError("the memory of a GPU is not the host's")
        devices = [torch.device(leaf).type for leaf in leaves if _is_device(leaf)]
        if devices or func == Tensor.cpu:
            there = "cuda" in devices
        else:
            there = any(map(lies_there, tensors[:1] if func == Tensor.copy_ else tensors))
        if True in sides and not there:
            self.copied.extend(tuple(tensor.shape) for tensor in tensors)
        if func == Tensor.pin_memory:
            return args[0]
        args, keywords = tree_map(lambda leaf: "cpu" if _is_device(leaf) else leaf, given)
        result = func(*args, **keywords)
        if func == _SETS_DATA:
            args[0].lies_there = lies_there(args[1])
        return tree_map(lambda leaf: _put(leaf, there, tensors) if isinstance(leaf, Tensor) else leaf, result)


def lies_there(tensor: Tensor) -> bool:
    """Return whether a tensor lies on the pretended GPU."""
    return getattr(tensor, "lies_there", False)


def _put(tensor: Tensor, there: bool, given: list[Tensor]) -> Tensor:
    if lies_there(tensor) != there and any(tensor is one for one in given):
        tensor = tensor.clone()
    tensor.lies_there = there  # type: ignore[attr-defined]
    return tensor


def _is_device(leaf: object) -> bool:
    return isinstance(leaf, torch.device) or (isinstance(leaf, str) and leaf.split(":")[0] in ("cpu", "cuda"))
