"""The networks of the flow methods, and their files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import segmentation_models_pytorch as smp
import torch
from cellpose.resnet_torch import CPnet
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn

from crystalbench._exceptions import ConfigurationError, DataError
from crystalbench._files import file_sha256, write_atomic


def cp_network(width: Sequence[int]) -> CPnet:
    """Return Cellpose's own U-Net for RGB input, with random weights.

    Parameters
    ----------
    width
        Channels of its levels; (32, 64, 128, 256) is Cellpose's and the paper's.
    """
    return CPnet([3, *width], nout=3, sz=3)


def attention_network(encoder: str, channels: int, init: str | None) -> tuple[nn.Module, str]:
    """Return the attention U-Net of segmentation-models-pytorch, and where its weights come from.

    Parameters
    ----------
    encoder
        Name of the backbone.
    channels
        Number of maps, the background's included.
    init
        ``imagenet`` (downloaded on first use; random where that fails), ``random`` or None, or a file of
        weights of the whole network or of its encoder.

    Returns
    -------
    The network and ``imagenet``, ``random`` or ``file:<sha12>``.

    Raises
    ------
    ConfigurationError
        Where ``init`` names a file that is not there or does not fit.
    """
    if init == "imagenet":
        return _imagenet_or_random(encoder, channels)
    network = smp.Unet(encoder, encoder_weights=None, classes=channels)
    return network, "random" if init in (None, "random") else load_initial(Path(str(init)), network)


def _imagenet_or_random(encoder: str, channels: int) -> tuple[nn.Module, str]:
    # What a failed download raises differs between versions of the hub's client and of its HTTP library.
    try:
        return smp.Unet(encoder, encoder_weights="imagenet", classes=channels), "imagenet"
    except Exception:
        return smp.Unet(encoder, encoder_weights=None, classes=channels), "random"


def load_initial(path: Path, network: nn.Module) -> str:
    """Fill a network, or its encoder, from a file and return ``file:<sha12>``.

    Raises
    ------
    ConfigurationError
        Where the file is not there, is not one of weights, or fits neither.
    """
    if not path.is_file():
        raise ConfigurationError(f"init is {str(path)!r}, which is no file; give random, imagenet or a file")
    weights = _read_weights(path)
    encoder = getattr(network, "encoder", None)
    target = encoder if encoder is not None and weights.keys() == encoder.state_dict().keys() else network
    _fill(target, weights, path)
    return f"file:{file_sha256(path)[:12]}"


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_safetensors(path.read_bytes())
        weights: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
        return weights
    except (SafetensorError, RuntimeError, ValueError, EOFError, OSError) as error:
        raise DataError(f"{path} cannot be read as a file of weights: {error}") from error


def _fill(network: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        expected = network.state_dict()
        fitting = sum(name in expected and expected[name].shape == value.shape for name, value in weights.items())
        raise ConfigurationError(
            f"{path} holds weights of another network: {fitting} of its {len(weights)} tensors fit the "
            f"{len(expected)} of this one; give one of the same width or encoder"
        ) from error


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
    _fill(network, _read_weights(path), path)
    return network.eval()
