"""The boundary network: an HRNet whose features are guided by a coarse map of the boundaries (Yu et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

CHANNELS_A_GROUP = 4
"""Channels that one group of a group normalisation has."""


class BoundaryNetwork(nn.Module):
    """From an image to the probability that a pixel lies on a boundary, in full and at a quarter of the resolution.

    Parameters
    ----------
    encoder
        Name of an HRNet in timm.
    pretrained
        Take the encoder's ImageNet weights from timm's hub.
    """

    def __init__(self, encoder: str, *, pretrained: bool = False) -> None:
        super().__init__()
        features: Any = timm.create_model(encoder, pretrained=pretrained, features_only=True, feature_location="")
        self.encoder = features
        widths = features.feature_info.channels()[1:]
        self.centre = CentreMap(widths[0])
        self.guides = nn.ModuleList(Guide(width) for width in widths)
        self.head = _head(sum(widths))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return the boundary (B x 1 x H x W) and S (B x 1 x H/4 x W/4), both between 0 and 1.

        Parameters
        ----------
        image
            B x 3 x H x W; H and W are multiples of 32.
        """
        stages = self._stages(image)
        centre = self.centre([branches[0] for branches in stages])
        guided = [guide(branch, centre) for guide, branch in zip(self.guides, stages[-1], strict=True)]
        return _resize(self.head(torch.cat(guided, dim=1)), image), centre

    def _stages(self, image: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Return the branches (1/4, 1/8 ... of the resolution) after stages 2, 3 and 4."""
        encoder: Any = self.encoder
        stem = encoder.act1(encoder.bn1(encoder.conv1(image)))
        stem = encoder.act2(encoder.bn2(encoder.conv2(stem)))
        first = encoder.layer1(stem)
        second = encoder.stage2([transition(first) for transition in encoder.transition1])
        third = encoder.stage3(_widen(second, encoder.transition2))
        return second, third, encoder.stage4(_widen(third, encoder.transition3))


class CentreMap(nn.Module):
    """The map S: where boundaries are, roughly, from the finest branch after three stages."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.ModuleList(_normalized(width, 2 * width, 3) for _ in range(3))
        self.second = nn.ModuleList(_normalized(2 * width, 4 * width, 3) for _ in range(2))
        self.last = nn.Sequential(
            _normalized(4 * width, 4 * width, 1), nn.ReLU(), nn.Conv2d(4 * width, 1, 1), nn.Sigmoid()
        )

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return S, B x 1 x h x w, from three maps B x C x h x w."""
        one, two, three = (layer(feature) for layer, feature in zip(self.first, features, strict=True))
        sums = functional.relu(one + two), functional.relu(two + three)
        summed = self.second[0](sums[0]) + self.second[1](sums[1])
        return torch.as_tensor(self.last(summed))


class Guide(nn.Module):
    """Weigh the channels of a branch by what they show where S is high, and its pixels by S."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weights = nn.Sequential(
            nn.Linear(width, width // 2), nn.ReLU(), nn.Linear(width // 2, width), nn.Softmax(dim=1)
        )

    def forward(self, branch: Tensor, centre: Tensor) -> Tensor:
        """Return the branch (B x C x h x w) at the resolution of S (B x 1 x H x W)."""
        features = _resize(branch, centre)
        pooled = (features * centre).sum((2, 3)) / centre.sum((2, 3)).clamp_min(torch.finfo(centre.dtype).eps)
        return torch.as_tensor(features * self.weights(pooled)[..., None, None] * (1 + centre))


def _head(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(width, width, 1), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, 1, 1), nn.Sigmoid()
    )


def _normalized(inputs: int, outputs: int, side: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, side, padding=side // 2)
    return nn.Sequential(convolution, nn.GroupNorm(outputs // CHANNELS_A_GROUP, outputs))


def _widen(branches: list[Tensor], transitions: nn.ModuleList) -> list[Tensor]:
    """Return the input of the next stage: the branches of the last one, and one more from its coarsest."""
    known = len(branches)
    return [*branches, *(transition(branches[-1]) for transition in list(transitions)[known:])]


def _resize(values: Tensor, like: Tensor) -> Tensor:
    return functional.interpolate(values, like.shape[2:], mode="bilinear", align_corners=False)


def initial_network(encoder: str, wants_imagenet: bool) -> tuple[BoundaryNetwork, str]:
    """Return the network to train, and ``imagenet`` or ``random`` after the weights of its encoder.

    Those of ImageNet are downloaded on first use; where that fails they are random.
    """
    if wants_imagenet:
        # What a failed download raises differs between versions of the hub's client and of its HTTP library.
        with suppress(Exception):
            return BoundaryNetwork(encoder, pretrained=True), "imagenet"
    return BoundaryNetwork(encoder), "random"
