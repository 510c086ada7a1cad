"""What the query models can be told; imports no network library.

Defaults are those of Neubauer et al. 2024, section IV-B; where it says nothing, those of transformers.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from crystalbench.segmenter import Parameters

from ._parameters import ScaleRange, ScheduleTrain

Rate = Annotated[float, Field(ge=0, lt=1)]
Width = Annotated[int, Field(ge=32, multiple_of=32)]
Stages = tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt]


class QueryTrain(ScheduleTrain):
    """Training of a network that answers with a fixed number of queries, each a mask and a score.

    Parameters
    ----------
    init
        ``ade20k`` (the paper's checkpoint, downloaded on first use; random where that fails), ``random``, a folder
        as ``save_pretrained`` leaves it, or a file of weights.
    input_size
        Side of the square crops, in pixels.
    crop_scale
        ``image``: crops show the image's own pixels (the paper's). ``input``: the image is first resized so that its
        longer side is ``input_size``, which is what a network sees with ``infer.mode: resized``.
    scale_range
        Random scale on top of that.
    turn
        Whether crops are turned and mirrored at random.
    embed_dim, depths, heads, window, drop_path
        The Swin backbone: channels, blocks and attention heads of its stages, side of the attention windows, and the
        share of residual branches that are dropped in training.
    queries
        Number of queries: no more crystals than that are found in one window.
    width, feedforward, dropout
        Of the pixel decoder and the transformer decoder.
    decoder_layers
        Layers of the transformer decoder.
    mask_weight, dice_weight
        Weights of the two losses of the masks.
    auxiliary_loss
        Whether the prediction after each layer of the decoder adds to the loss. From random weights little is learnt
        without.
    loss_stride
        Pixels of a crop along a cell of the masks that the losses compare: 1 is the library's, 4 the resolution of the
        network's output, which takes a sixteenth of the memory.
    clip_norm
        Largest norm of the gradient; null for any.
    """

    init: str = "ade20k"
    input_size: Annotated[int, Field(ge=64, multiple_of=32)] = 512
    crop_scale: Literal["image", "input"] = "image"
    scale_range: ScaleRange = (0.75, 1.25)
    turn: bool = True
    embed_dim: PositiveInt
    depths: Stages
    heads: Stages
    window: PositiveInt
    drop_path: Rate = 0.3
    queries: PositiveInt
    width: Width = 256
    feedforward: PositiveInt = 2048
    dropout: Rate = 0.1
    decoder_layers: Annotated[int, Field(ge=2)]
    mask_weight: PositiveFloat
    dice_weight: PositiveFloat
    auxiliary_loss: bool
    loss_stride: Literal[1, 2, 4] = 1
    clip_norm: PositiveFloat | None = None

    @model_validator(mode="after")
    def _channels_by_heads(self) -> Self:
        for stage, heads in enumerate(self.heads):
            if self.embed_dim * 2**stage % heads:
                raise ValueError(f"embed_dim {self.embed_dim} x {2**stage} is no multiple of {heads} heads")
        return self


class MaskFormerTrain(QueryTrain):
    """Training of MaskFormer with Swin-B, as ``facebook/maskformer-swin-base-ade`` is configured."""

    epochs: PositiveInt = 500
    batch_size: PositiveInt = 32
    lr: PositiveFloat = 5e-5
    embed_dim: PositiveInt = 128
    depths: Stages = (2, 2, 18, 2)
    heads: Stages = (4, 8, 16, 32)
    window: PositiveInt = 12
    queries: PositiveInt = 100
    decoder_layers: Annotated[int, Field(ge=2)] = 6
    mask_weight: PositiveFloat = 20.0
    dice_weight: PositiveFloat = 1.0
    auxiliary_loss: bool = False


class OneFormerTrain(QueryTrain):
    """Training of OneFormer with Swin-T, as ``shi-labs/oneformer_ade20k_swin_tiny`` is configured.

    Parameters
    ----------
    encoder_layers, encoder_feedforward
        Of the pixel decoder's deformable attention.
    query_layers
        Layers of the transformer that the queries start from.
    points
        Points of a mask that its losses are computed at.
    contrastive_weight
        Weight of the contrastive loss between queries and texts.
    text_layers, text_context
        The text encoder, which only training needs and which is as wide as the rest, and the number of learnt texts.
    tokenizer
        ``clip`` (what CLIP's tokenizer makes of the three texts is known), or a folder with another one.
    """

    epochs: PositiveInt = 150
    batch_size: PositiveInt = 16
    lr: PositiveFloat = 1e-4
    embed_dim: PositiveInt = 96
    depths: Stages = (2, 2, 6, 2)
    heads: Stages = (3, 6, 12, 24)
    window: PositiveInt = 7
    queries: PositiveInt = 150
    # The text encoder has heads of 64 channels.
    width: Annotated[int, Field(ge=64, multiple_of=64)] = 256
    decoder_layers: Annotated[int, Field(ge=2)] = 10
    mask_weight: PositiveFloat = 5.0
    dice_weight: PositiveFloat = 5.0
    auxiliary_loss: bool = True
    encoder_layers: PositiveInt = 6
    encoder_feedforward: PositiveInt = 1024
    query_layers: PositiveInt = 2
    points: PositiveInt = 12544
    contrastive_weight: NonNegativeFloat = 0.5
    text_layers: PositiveInt = 6
    text_context: PositiveInt = 16
    tokenizer: str = "clip"

    @model_validator(mode="after")
    def _room_for_texts(self) -> Self:
        if self.text_context >= self.queries:
            raise ValueError(f"text_context ({self.text_context}) must be below queries ({self.queries})")
        return self


class QueryInfer(Parameters):
    """How an image is shown to the network.

    Parameters
    ----------
    mode
        ``resized``: the whole image, resized so that its longer side is the input's; one pass, as the paper's latency
        suggests. ``windows``: windows of the image's own pixels that overlap by half.
    batch_size
        Windows in one pass.
    """

    mode: Literal["resized", "windows"] = "resized"
    batch_size: PositiveInt = 4


class QueryDecode(Parameters):
    """Which queries become crystals.

    Parameters
    ----------
    score_threshold
        Queries with a lower score are dropped; see :func:`crystalbench.adapters._query_decoding.confidences`.
    mask_threshold
        Probability above which a pixel belongs to a query's mask.
    overlap_threshold
        A query is dropped where queries of higher score leave it less than this share of its mask.
    min_size
        A crystal of fewer pixels is dropped.
    """

    score_threshold: Annotated[float, Field(ge=0, le=1)] = 0.5
    mask_threshold: Annotated[float, Field(ge=0.1, le=0.9)] = 0.5
    overlap_threshold: Annotated[float, Field(ge=0, le=1)] = 0.8
    min_size: Annotated[int, Field(ge=0)] = 15
