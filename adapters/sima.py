"""Cellpose+SiMA: flow fields of several scales, fused by attention to the size of crystals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from crystalbench._exceptions import ConfigurationError
from crystalbench.segmenter import Component, Context, Image, Parameters

from . import _flow
from ._parameters import AttentionTrain

if TYPE_CHECKING:
    from torch import Tensor

    from crystalbench.data import Sample


class SimaInfer(_flow.MultiScale):
    """Scales and how they are fused: by attention as in the paper, or as in its Table I without."""

    fusion: Literal["attention", "average", "maximum"] = "attention"


class Sima(_flow.MultiScaleSegmenter):
    """Neubauer et al. 2024, section III.

    The flow network sees the image at N scales; the attention network, from the whole image at the size of
    its input, says for each pixel how large the crystal is that it belongs to. Map A_1 (the largest crystals)
    weighs the lowest resolution r_1, A_N the highest.

    Raises
    ------
    ConfigurationError
        Where there are not as many attention maps as scales.
    """

    components = (_flow.CP, Component("attention", AttentionTrain))
    Infer = SimaInfer

    def __init__(self, *, train: Mapping[str, Parameters], infer: Parameters, decode: Parameters) -> None:
        super().__init__(train=train, infer=infer, decode=decode)
        maps, scales = len(self.train["attention"].thresholds), len(self.infer_parameters.resize_factors)
        if self.infer_parameters.fusion == "attention" and maps != scales:
            raise ConfigurationError(
                f"train.attention.thresholds gives {maps} attention maps and infer.resize_factors {scales} "
                "scales; fusion by attention needs one map for each scale"
            )

    def fit(self, component: str, train: Sequence[Sample], val: Sequence[Sample], context: Context) -> None:
        """Train the flow network or the attention network."""
        from . import _training

        if component == "attention":
            _training.fit_attention(self.train["attention"], train, val, context)
        else:
            super().fit(component, train, val, context)

    def load(self, checkpoints: Mapping[str, Path], device: str) -> None:
        """Read both networks' checkpoints."""
        import torch

        from . import _networks, _tiling, _weights

        super().load(checkpoints, device)
        parameters = self.train["attention"]
        network, _ = _networks.attention_network(parameters.encoder, len(parameters.loss_weights))
        _weights.load_checkpoint(checkpoints["attention"], network)
        network = torch.nn.Sequential(network, torch.nn.Sigmoid())
        self._attention = _tiling.tiled(network, parameters.input_size, self.infer_parameters, device)

    def infer(self, image: Image) -> _flow.RawField:
        """Return the fused field, 3 x H x W."""
        from . import _fusion

        if self.infer_parameters.fusion == "attention":
            weights = self.attention(image)[:-1]
            fused = _fusion.by_attention(self.scales(image), weights)
        else:
            fused = _fusion.FUSIONS[self.infer_parameters.fusion](self.scales(image))
        return _flow.as_raw(fused)

    def attention(self, image: Image) -> Tensor:
        """Return the attention maps, (N + 1) x H x W between 0 and 1; the last is the background's."""
        with self.stage("attention"):
            maps: Tensor = self._attention.at_scales(image, [self._attention.side / max(image.shape[:2])])
            return maps[0]

    def pictures(self, image: Image) -> dict[str, Image]:
        """Return the flow of each scale, the fused flow, the foreground and the attention maps."""
        fields = self.scales(image)
        flows = {
            f"flow r={factor:.2g}": _flow.flow_picture(_flow.to_host(field))
            for factor, field in zip(self.factors(image), fields, strict=True)
        }
        maps = {
            f"attention {number}": _flow.grey_picture(_flow.to_host(weights))
            for number, weights in enumerate(self.attention(image)[:-1], start=1)
        }
        return {**flows, **maps, **super().pictures(image)}
