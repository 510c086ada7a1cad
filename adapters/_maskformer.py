"""MaskFormer of transformers, and what it is trained to."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import DetrConfig, MaskFormerConfig, MaskFormerForInstanceSegmentation

from . import _query_networks, _query_training
from ._query_parameters import MaskFormerTrain


def config(parameters: MaskFormerTrain, training: bool) -> MaskFormerConfig:
    """Return the library's configuration."""
    decoder = DetrConfig(
        num_queries=parameters.queries,
        d_model=parameters.width,
        decoder_layers=parameters.decoder_layers,
        decoder_ffn_dim=parameters.feedforward,
        dropout=parameters.dropout,
    )
    return MaskFormerConfig(
        backbone_config=_query_networks.swin(parameters),
        decoder_config=decoder,
        fpn_feature_size=parameters.width,
        mask_feature_size=parameters.width,
        mask_weight=parameters.mask_weight,
        dice_weight=parameters.dice_weight,
        use_auxiliary_loss=training and parameters.auxiliary_loss,
        num_labels=_query_networks.CLASSES,
    )


class MaskFormerNetwork(nn.Module):
    """The model for prediction, images (B x 3 x side x side) in."""

    def __init__(self, model: MaskFormerForInstanceSegmentation) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Any:
        """Return the library's output."""
        return self.model(images)


class MaskFormerObjective(_query_training.QueryObjective):
    """The library's loss."""

    def __init__(self, model: MaskFormerForInstanceSegmentation, parameters: MaskFormerTrain) -> None:
        super().__init__(MaskFormerNetwork(model), parameters.loss_stride)
        model.criterion.matcher = _query_training.Matcher(model.criterion.matcher)

    def loss(self, images: Tensor, masks: list[Tensor], classes: list[Tensor]) -> Tensor:
        """Return the weighted sum over layers of the losses of masks and classes."""
        # The losses of the decoder's layers need their states, which the library only returns when asked.
        output = self.network.model(images, masks, classes, output_hidden_states=True)
        loss: Tensor = output.loss
        return loss


LIBRARY = _query_networks.Library(
    "facebook/maskformer-swin-base-ade",
    MaskFormerForInstanceSegmentation,
    config,
    MaskFormerNetwork,
    MaskFormerObjective,
)
