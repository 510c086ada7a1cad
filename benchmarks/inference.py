"""From a micrograph to labels: SiMA, beside the same pipeline put together from Cellpose's own functions."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from _timing import Row, alternate
from _trained import trained
from cellpose import core, dynamics, transforms

from crystalbench import Image, Labels, Sample, evaluate
from crystalbench.adapters import _augmentation, _size, _tiling
from crystalbench.adapters._fast_decoding import flow_steps
from crystalbench.data import find_dataset
from crystalbench.data._classes import crystal_lengths
from crystalbench.data._synthetic import Micrograph, MicrographSpec, Population, make_micrograph
from crystalbench.registry import find_method

PEERS: tuple[str, ...] = ()

SIDE = 1800

GOALS = {"cpu": "at least 1.8 times", "cuda": "10 times, and under 0.4 s"}


def rows() -> Iterator[Row]:
    """Yield one row for the CPU, one for the GPU, and whether masks stay the same in half the precision."""
    micrograph = make_micrograph(SIDE, SIDE, np.random.default_rng(0), MicrographSpec((Population(300, 90.0),)))
    method = find_method("sima")
    segmenter: Any = method.build(method.preset("quick"))
    split = find_dataset("demo").split()
    checkpoints = trained(segmenter, split.train)
    for device in GOALS:
        yield predict_row(segmenter, checkpoints, micrograph, device)
    segmenter.load(checkpoints, "cpu")
    yield bfloat16_row(segmenter, split.test)


def predict_row(segmenter: Any, checkpoints: Mapping[str, Path], micrograph: Micrograph, device: str) -> Row:
    """Time both ways on ``device``."""
    truth, image = micrograph.label, micrograph.image
    work = f"SiMA predict, {SIDE}^2, {len(np.unique(truth)) - 1} crystals, {device}"
    against = f"the same from the functions of cellpose {version('cellpose')}"
    if device == "cuda" and not torch.cuda.is_available():
        return Row(work, against, None, GOALS[device], "no GPU here")
    segmenter.load(checkpoints, device)
    peer = Peer(segmenter, steps=int(crystal_lengths(truth).max()))
    for predict in (segmenter.predict, peer.predict):
        predict(image[:300, :300])
    segmenter.stages = {}
    repeats = 3
    pair = alternate(lambda: segmenter.predict(image), lambda: peer.predict(image), repeats)
    ours = (segmenter.stages["attention"] + segmenter.stages["cp"]) / repeats
    theirs = peer.network_seconds / (repeats + 1)
    quality = [evaluate(truth, labels).pq for labels in (pair.ours, pair.theirs)]
    fused = peer.fused(image)
    as_many = peer.decode(fused, flow_steps(fused[2] > segmenter.decode_parameters.foreground_threshold))
    agreement = (
        f"{pair.seconds}, of these {ours:.3g} s and {theirs:.3g} s in the networks; PQ to the truth {quality[0]:.3f} "
        f"and {quality[1]:.3f}, between the two {evaluate(pair.theirs, pair.ours).pq:.3f}, with as many steps "
        f"{evaluate(as_many, pair.ours).pq:.3f}"
    )
    return Row(work, against, pair.ratio, GOALS[device], agreement)


def bfloat16_row(segmenter: Any, samples: Sequence[Sample]) -> Row:
    """Compare the masks of networks that compute in bfloat16 with those of float32."""
    found = []
    for sample in samples:
        usual = segmenter.predict(sample.image)
        with torch.autocast("cpu", torch.bfloat16):
            half = segmenter.predict(sample.image)
        found.append([evaluate(usual, half).pq, *(evaluate(sample.label, labels).pq for labels in (half, usual))])
    between, half_quality, quality = np.mean(found, axis=0)
    lowest = np.min(found, axis=0)[0]
    said = f"{len(found)} images, lowest {lowest:.3f}; PQ to the truth {half_quality:.4f} and {quality:.4f}"
    return Row("SiMA's masks with networks in bfloat16, demo: mean PQ", "float32", between, "the same masks", said)


class Peer:
    """SiMA from Cellpose's functions and NumPy, with the weights of ``segmenter``.

    ``steps`` must lead out of the largest crystal; the library's 200 do not, and would be faster.
    """

    def __init__(self, segmenter: Any, steps: int) -> None:
        self.segmenter, self.steps = segmenter, steps
        flow, attention = (
            copy.deepcopy(tiled.network).to(memory_format=torch.contiguous_format)
            for tiled in (segmenter.cp, segmenter._attention)
        )
        self.flow, self.attention = _size.LibraryNetwork(flow), attention
        self.network_seconds = 0.0

    def predict(self, image: Image) -> Labels:
        """Segment an image (H x W x 3)."""
        return self.decode(self.fused(image), self.steps)

    def fused(self, image: Image) -> np.ndarray:
        """Return the fused field, 3 x H x W."""
        start = time.perf_counter()
        fields = np.stack([self.field(image, factor) for factor in self.segmenter.factors(image)])
        weights = self.weights(image)
        self.network_seconds += time.perf_counter() - start
        shares = weights / weights.sum(axis=0)
        fused: np.ndarray = (shares[:, None] * fields).sum(axis=0)
        return fused

    def decode(self, fused: np.ndarray, steps: int) -> Labels:
        """Turn a field into labels."""
        parameters = self.segmenter.decode_parameters
        return dynamics.compute_masks(
            fused[:2],
            fused[2],
            niter=steps,
            cellprob_threshold=parameters.foreground_threshold,
            flow_threshold=parameters.flow_threshold,
            min_size=parameters.min_size,
            max_size_fraction=1.0,
            device=torch.device(self.segmenter.device),
        ).astype(np.int32)

    def field(self, image: Image, factor: float) -> np.ndarray:
        """Return 3 x H x W for an image resized by ``factor``."""
        scaled = shrink(image, factor)
        seen = _augmentation.normalize(scaled).transpose(1, 2, 0) - _size.black()
        predicted, _ = core.run_net(self.flow, seen[None], bsize=self.segmenter.cp.side)
        return transforms.resize_image(predicted[0], *image.shape[:2]).transpose(2, 0, 1)

    def weights(self, image: Image) -> np.ndarray:
        """Return the attention maps of the scales, N x H x W."""
        side = self.segmenter._attention.side
        scaled = shrink(image, side / max(image.shape[:2]))
        height, width = scaled.shape[:2]
        padded = np.pad(scaled, [(0, side - height), (0, side - width), (0, 0)])
        with torch.no_grad():
            batch = torch.from_numpy(_augmentation.normalize(padded))[None].to(self.segmenter.device)
            maps = self.attention(batch)[0, :-1, :height, :width].cpu().numpy()
        return transforms.resize_image(maps.transpose(1, 2, 0), *image.shape[:2]).transpose(2, 0, 1)


def shrink(image: Image, factor: float) -> Image:
    """Resize an image (H x W x 3) as the networks have seen it in training."""
    shape = _tiling.scaled_shape((image.shape[0], image.shape[1]), factor)
    return transforms.resize_image(image, *shape, interpolation=cv2.INTER_AREA)
