"""The six losses of the boundary network, and the weights that keep them in balance."""

from __future__ import annotations

import math

import torch
from pytorch_msssim import ms_ssim, ssim
from torch import Tensor, nn
from torch.nn import functional

from ._loop import Objective

LOSSES = 6
"""Number of losses; also the sum of their weights."""

TEMPERATURE = 2.0
"""Of the softmax that makes weights from ratios: the higher, the more alike they are."""

SKELETON_STEPS = 10
"""Erosions of the soft skeleton; lines of up to twice as many pixels are thinned to their centre."""

SMOOTH = 1.0
"""Pixels added to both sides of a ratio, so that crops without boundaries have one."""

COARSEST = 16
"""By how much MS-SSIM shrinks an image at the last of its five scales."""

SSIM_WINDOW = 11
"""Side of the window of SSIM, in pixels (Wang et al. 2004)."""


class BoundaryObjective(Objective):
    """Six losses under dynamic weight average (Liu et al. 2019, section 3.2).

    A loss that fell less than the others from the last epoch but one to the last one weighs more in the next. In the
    first two epochs all weigh the same.
    """

    ratios: Tensor
    last: Tensor
    sums: Tensor
    batches: Tensor

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        self.register_buffer("ratios", torch.ones(LOSSES))
        self.register_buffer("last", torch.full((LOSSES,), torch.nan))
        self.register_buffer("sums", torch.zeros(LOSSES))
        self.register_buffer("batches", torch.zeros(()))

    def forward(self, images: Tensor, targets: Tensor) -> Tensor:
        """Return the weighted sum of the losses.

        Parameters
        ----------
        images
            B x 3 x S x S.
        targets
            B x S x S, 1 on boundaries of 5 px and 0 elsewhere.
        """
        boundary, centre = self.network(images)
        losses = boundary_losses(boundary, centre, targets[:, None].to(boundary))
        if self.training:
            self.sums += losses.detach()
            self.batches += 1
        return (self.weights() * losses).sum()

    def weights(self) -> Tensor:
        """Return the weight of each loss; their sum is 6."""
        return LOSSES * torch.softmax(self.ratios / TEMPERATURE, dim=0)

    def end_epoch(self) -> None:
        """Compare the mean losses of this epoch with those of the last one."""
        mean = self.sums / self.batches
        self.ratios.copy_(torch.nan_to_num(mean / self.last, nan=1.0))
        self.last.copy_(mean)
        self.sums.zero_()
        self.batches.zero_()


def boundary_losses(boundary: Tensor, centre: Tensor, target: Tensor) -> Tensor:
    """Return the six losses of a batch (Yu et al. 2022).

    On the boundary: binary cross-entropy, clDice, 1 - MS-SSIM; on S, against the target at a quarter of the resolution:
    binary cross-entropy, Dice, 1 - SSIM.

    Parameters
    ----------
    boundary, target
        B x 1 x S x S between 0 and 1; S at least 64.
    centre
        B x 1 x S/4 x S/4 between 0 and 1.
    """
    coarse = functional.interpolate(target, centre.shape[2:], mode="area")
    return torch.stack(
        [
            functional.binary_cross_entropy(boundary, target),
            soft_cldice_loss(boundary, target),
            1 - ms_ssim(boundary, target, data_range=1.0, win_size=_ssim_window(target.shape[-1])),
            functional.binary_cross_entropy(centre, coarse),
            dice_loss(centre, coarse),
            1 - ssim(centre, coarse, data_range=1.0, win_size=SSIM_WINDOW),
        ]
    )


def _ssim_window(side: int) -> int:
    """Return the largest odd window, 11 px or less, that fits into an image of ``side`` at its coarsest scale."""
    fitting = math.ceil(side / COARSEST)
    return min(SSIM_WINDOW, fitting - 1 + fitting % 2)


def dice_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Return one minus the soft Dice coefficient of a batch."""
    return 1 - (2 * (prediction * target).sum() + SMOOTH) / (prediction.sum() + target.sum() + SMOOTH)


def soft_cldice_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Return one minus the soft clDice of a batch of masks, B x 1 x H x W (Shit et al. 2021, equations 1 to 3)."""
    lines, true_lines = soft_skeleton(prediction), soft_skeleton(target)
    precision = ((lines * target).sum() + SMOOTH) / (lines.sum() + SMOOTH)
    sensitivity = ((true_lines * prediction).sum() + SMOOTH) / (true_lines.sum() + SMOOTH)
    return 1 - 2 * precision * sensitivity / (precision + sensitivity)


def soft_skeleton(mask: Tensor) -> Tensor:
    """Return the soft skeleton of masks, B x 1 x H x W between 0 and 1 (Shit et al. 2021, algorithm 1)."""
    skeleton = torch.zeros_like(mask)
    for _ in range(SKELETON_STEPS + 1):
        eroded = -functional.max_pool2d(-mask, 3, stride=1, padding=1)
        opened = functional.max_pool2d(eroded, 3, stride=1, padding=1)
        skeleton = skeleton + (1 - skeleton) * functional.relu(mask - opened)
        mask = eroded
    return skeleton
