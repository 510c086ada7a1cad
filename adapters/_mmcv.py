"""Non-maximum suppression for an mmcv that was installed without its compiled operators."""

from __future__ import annotations

import importlib.util
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

from torchvision import ops

if TYPE_CHECKING:
    from torch import Tensor

EXTENSION = "mmcv._ext"
"""The module of mmcv's compiled operators."""


def provide_nms() -> None:
    """Let torchvision do what mmcv's compiled operators would, where there are none.

    Of these RTMDet-Ins needs non-maximum suppression alone. To be called before mmdet is imported. Compiled
    operators are used where they are there.
    """
    if importlib.util.find_spec(EXTENSION) is None:
        sys.modules[EXTENSION] = substitute()


def substitute() -> ModuleType:
    """Return a module in place of the compiled one, whose ``nms`` is torchvision's and whose other names raise."""
    module: Any = importlib.util.module_from_spec(ModuleSpec(EXTENSION, None))
    module.nms = _nms
    module.__getattr__ = _missing
    return module  # type: ignore[no-any-return]


def _nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int = 0) -> Tensor:
    if offset:
        raise NotImplementedError("boxes whose last pixel counts (offset 1) need compiled mmcv")
    kept: Tensor = ops.nms(boxes, scores, iou_threshold)
    return kept


def _missing(name: str) -> Any:
    # Python asks modules for names of its own, which must stay missing.
    if name.startswith("__"):
        raise AttributeError(name)

    def refuse(*_: object, **__: object) -> NoReturn:
        raise NotImplementedError(f"the operator {name} needs compiled mmcv")

    return refuse
