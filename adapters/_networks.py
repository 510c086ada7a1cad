"""The networks of the flow methods."""

from __future__ import annotations

from collections.abc import Sequence

import segmentation_models_pytorch as smp
from cellpose.resnet_torch import CPnet
from torch import nn


def cp_network(width: Sequence[int]) -> CPnet:
    """Return Cellpose's own U-Net for RGB input, with random weights.

    Parameters
    ----------
    width
        Channels of its levels; (32, 64, 128, 256) is Cellpose's and the paper's.
    """
    return CPnet([3, *width], nout=3, sz=3)


def attention_network(encoder: str, channels: int, imagenet: bool = False) -> tuple[nn.Module, str]:
    """Return the attention U-Net of segmentation-models-pytorch, and where its weights come from.

    Parameters
    ----------
    encoder
        Name of the backbone.
    channels
        Number of maps, the background's included.
    imagenet
        Give the encoder its published weights (downloaded on first use); random where that fails.

    Returns
    -------
    The network and ``imagenet`` or ``random``.
    """
    if imagenet:
        # What a failed download raises differs between versions of the hub's client and of its HTTP library.
        try:
            return smp.Unet(encoder, encoder_weights="imagenet", classes=channels), "imagenet"
        except Exception:
            pass
    return smp.Unet(encoder, encoder_weights=None, classes=channels), "random"
