"""OneFormer of transformers, and what it is trained to."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import OneFormerConfig, OneFormerForUniversalSegmentation
from transformers.models.oneformer.modeling_oneformer import OneFormerPixelDecoderEncoderLayer

from . import _oneformer_text as texts
from . import _query_networks, _query_training
from ._query_parameters import OneFormerTrain


def config(parameters: OneFormerTrain, training: bool) -> OneFormerConfig:
    """Return the library's configuration; only that for training has the text encoder."""
    return OneFormerConfig(
        backbone_config=_query_networks.swin(parameters),
        num_queries=parameters.queries,
        hidden_dim=parameters.width,
        conv_dim=parameters.width,
        mask_dim=parameters.width,
        dim_feedforward=parameters.feedforward,
        dropout=parameters.dropout,
        decoder_layers=parameters.decoder_layers,
        encoder_layers=parameters.encoder_layers,
        encoder_feedforward_dim=parameters.encoder_feedforward,
        query_dec_layers=parameters.query_layers,
        mask_weight=parameters.mask_weight,
        dice_weight=parameters.dice_weight,
        use_auxiliary_loss=parameters.auxiliary_loss,
        train_num_points=parameters.points,
        contrastive_weight=parameters.contrastive_weight,
        text_encoder_width=parameters.width,
        text_encoder_num_layers=parameters.text_layers,
        text_encoder_n_ctx=parameters.text_context,
        text_encoder_vocab_size=texts.VOCABULARY,
        num_labels=_query_networks.CLASSES,
        is_training=training,
    )


class OneFormerNetwork(nn.Module):
    """The model for prediction, images (B x 3 x side x side) in; the tokens of the task are among its weights."""

    def __init__(self, model: OneFormerForUniversalSegmentation) -> None:
        super().__init__()
        self.model = model
        self.task: Tensor
        self.register_buffer("task", texts.tokens(texts.TASK))

    def forward(self, images: Tensor) -> Any:
        """Return the library's output."""
        return self.model(images, self.task.expand(len(images), -1))


class OneFormerObjective(_query_training.QueryObjective):
    """The library's loss. The text encoder is taken out of the model: prediction does without."""

    def __init__(self, model: OneFormerForUniversalSegmentation, parameters: OneFormerTrain) -> None:
        super().__init__(OneFormerNetwork(model), parameters.loss_stride)
        self.network.task = texts.tokens(texts.TASK, parameters.tokenizer)
        self.encoder = model.model.text_mapper
        model.model.text_mapper, model.model.is_training = None, False
        self.slots = parameters.queries - parameters.text_context
        both = [texts.tokens(text, parameters.tokenizer) for text in (texts.CRYSTAL, texts.OTHER)]
        self.texts: Tensor
        self.register_buffer("texts", torch.stack(both)[None])
        model.criterion.matcher = _query_training.Matcher(model.criterion.matcher)

    def train(self, mode: bool = True) -> Self:
        """Switch dropout on or off, in the layers too where the library goes by the configuration."""
        for module in self.modules():
            if isinstance(module, OneFormerPixelDecoderEncoderLayer):
                module.is_training = mode
        return super().train(mode)

    def loss(self, images: Tensor, masks: list[Tensor], classes: list[Tensor]) -> Tensor:
        """Return the weighted sum over layers of the losses of masks and classes, and the contrastive loss."""
        output = self.network(images)
        losses = self.network.model.get_loss_dict(
            masks_queries_logits=output.masks_queries_logits,
            class_queries_logits=output.class_queries_logits,
            contrastive_queries_logits=output.transformer_decoder_contrastive_queries,
            mask_labels=masks,
            class_labels=classes,
            text_queries=self.text_queries([len(mask) for mask in masks]),
            auxiliary_predictions=output.transformer_decoder_auxiliary_predictions,
            calculate_contrastive_loss=True,
        )
        loss: Tensor = self.network.model.get_loss(losses)
        # The library keeps the number of crystals, and with it every loss of masks, as a tensor of one value.
        return loss.squeeze()

    def text_queries(self, crystals: list[int]) -> Tensor:
        """Return B x queries x width: one text for each crystal, the other one in the slots left, the learnt ones."""
        # The encoder has no dropout, so that each of the two texts need be encoded only once.
        encoded = self.encoder(self.texts)[0]
        slot = torch.arange(self.slots, device=encoded.device)
        other = slot >= torch.tensor(crystals, device=encoded.device)[:, None]
        learnt = encoded[2:].expand(len(crystals), -1, -1)
        return torch.cat([encoded[other.long()], learnt], dim=1)


LIBRARY = _query_networks.Library(
    "shi-labs/oneformer_ade20k_swin_tiny",
    OneFormerForUniversalSegmentation,
    config,
    OneFormerNetwork,
    OneFormerObjective,
)
