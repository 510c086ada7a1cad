"""Files of weights. They may be anybody's: nothing in them is run unless the user says so."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn

from crystalbench._exceptions import ConfigurationError, DataError
from crystalbench._files import path_sha256, write_atomic

if TYPE_CHECKING:
    from crystalbench.segmenter import Context

WRAPPERS = ("state_dict", "model")
"""Keys under which training libraries keep the weights among other things."""

_MOST_NAMED = 3


class _Unread:
    """Takes the place of what a checkpoint holds beside its weights, and of calls in it."""

    def __init__(self, *_: object) -> None:
        return


# What NumPy pickles arrays and scalars by; the module's name changed with version 2.
_NUMPY = (("_reconstruct", np.zeros(0).__reduce__()[0]), ("scalar", np.float64().__reduce__()[0]))
_DTYPES = ("Bool", "UInt8", "Int32", "Int64", "Float32", "Float64")
SAFE_GLOBALS: list[Any] = [
    np.ndarray,
    np.dtype,
    *(getattr(np.dtypes, f"{name}DType") for name in _DTYPES),
    *((function, f"numpy.{module}.multiarray.{name}") for name, function in _NUMPY for module in ("core", "_core")),
    (_Unread, "mmengine.logging.history_buffer.HistoryBuffer"),
    (_Unread, "builtins.getattr"),
    (_Unread, "argparse.Namespace"),
]
"""What a checkpoint of mmengine, timm and the like may name beside tensors; none of it runs code of the file."""


def read_weights(path: Path, unpickle: bool = False) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file or of a PyTorch checkpoint.

    Parameters
    ----------
    unpickle
        Read also what can only be unpickled, which runs whatever code the file brings.

    Raises
    ------
    DataError
        Where the file cannot be read, would have to be unpickled, or holds no tensors.
    """
    try:
        data = path.read_bytes()
        content = load_safetensors(data) if data[8:9] == b"{" else _load_pytorch(path, unpickle)
    except pickle.UnpicklingError as error:
        raise DataError(
            f"{path} holds more than tensors, and reading it could run code that it brings: ask for a safetensors "
            f"file, or give --unpickle-weights if you trust it ({_first_sentence(error)})"
        ) from error
    except (SafetensorError, RuntimeError, ValueError, EOFError, OSError) as error:
        raise DataError(f"{path} cannot be read as a file of weights: {error}") from error
    weights = {name: value for name, value in _unwrap(content).items() if isinstance(value, Tensor)}
    if not weights:
        raise DataError(f"{path} holds no tensors")
    return weights


def _load_pytorch(path: Path, unpickle: bool) -> Any:
    if unpickle:
        return torch.load(path, map_location="cpu", weights_only=False)
    with torch.serialization.safe_globals(SAFE_GLOBALS):
        return torch.load(path, map_location="cpu", weights_only=True)


def _first_sentence(error: Exception) -> str:
    # PyTorch follows its reason with advice on how to unpickle all the same.
    reason = next((line for line in str(error).splitlines() if "Unsupported" in line or "GLOBAL" in line), str(error))
    return reason.strip().split(". ")[0]


def _unwrap(content: Any) -> Mapping[str, Any]:
    if not isinstance(content, Mapping):
        return {}
    inner = next((content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)
    return content if inner is None else _unwrap(inner)


def start_from(path: Path, network: nn.Module, context: Context) -> str:
    """Fill a network, or that part of it which the file was saved from, as far as a file of weights goes.

    What does not fit is reported through ``context.warn``.

    Returns
    -------
    ``file:<sha12>``.

    Raises
    ------
    ConfigurationError
        Where the file is not there, or less than half of it fits.
    DataError
        As :func:`read_weights`.
    """
    if not path.is_file():
        raise ConfigurationError(f"init is {str(path)!r}, which is no file of weights")
    weights = read_weights(path, context.unpickle)
    part, prefix = _part_for(network, weights)
    fitting = _fitting(part, weights)
    if 2 * len(fitting) < len(weights):
        raise ConfigurationError(
            f"{path} holds weights of another network: {len(fitting)} of its {len(weights)} tensors fit the "
            f"{len(network.state_dict())} of this one; give one of the same width or encoder"
        )
    part.load_state_dict(fitting, strict=False)
    own = part.state_dict()
    missing = [name for name in network.state_dict() if name.removeprefix(prefix) not in fitting]
    misshapen = [name for name in weights if name in own and name not in fitting]
    report_misfits(path, context, missing, [name for name in weights if name not in own], misshapen)
    return f"file:{path_sha256(path)[:12]}"


def _part_for(network: nn.Module, weights: Mapping[str, Tensor]) -> tuple[nn.Module, str]:
    """Return the network or the child (an encoder) that most of the tensors fit, and its prefix."""
    parts = [(network, ""), *((child, f"{name}.") for name, child in network.named_children())]
    return max(parts, key=lambda part: len(_fitting(part[0], weights)))


def _fitting(network: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    own = network.state_dict()
    return {name: value for name, value in weights.items() if name in own and own[name].shape == value.shape}


def report_misfits(
    path: Path, context: Context, missing: Sequence[str], surplus: Sequence[str], misshapen: Sequence[str]
) -> None:
    """Warn of what a starting point lacks, has too much, or has in another shape, by the tensors' names."""
    _report(path, context, missing, "tensors of the network are not filled and start at random")
    _report(path, context, surplus, "tensors of the file have no place in the network and are left out")
    _report(path, context, misshapen, "tensors of the file have another shape in the network and are left out")


def _report(path: Path, context: Context, names: Sequence[str], what: str) -> None:
    if names:
        more = ", ..." if len(names) > _MOST_NAMED else ""
        context.warn(f"init {path}: {len(names)} {what} ({', '.join(names[:_MOST_NAMED])}{more})")


def save_checkpoint(path: Path, network: nn.Module, origin: str = "random") -> None:
    """Write a network's weights as safetensors, whole or not at all, with where they started.

    More than one entry of metadata would be written in any order, and the file no longer be bitwise the same.
    """
    weights = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    write_atomic(path, save_safetensors(weights, {"origin": origin}))


def load_checkpoint(path: Path, network: nn.Module) -> nn.Module:
    """Fill a network from its checkpoint and return it, ready to predict on the CPU.

    Raises
    ------
    DataError
        Where the file cannot be read.
    ConfigurationError
        Where it belongs to another network.
    """
    weights = read_weights(path)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        fitting = len(_fitting(network, weights))
        raise ConfigurationError(
            f"{path} holds weights of another network: {fitting} of its {len(weights)} tensors fit the "
            f"{len(network.state_dict())} of this one"
        ) from error
    return network.eval()
