"""From flow fields to crystals beside Cellpose: in how much less time, and whether the crystals are the same."""

from __future__ import annotations

import itertools
import os
import tracemalloc
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from _timing import Pair, Row, alternate, side_by_side, timed
from _trained import trained
from cellpose import dynamics
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from crystalbench import Dataset, evaluate, open_dataset
from crystalbench.adapters import _decoding, _device_decoding, _fast_decoding, _targets
from crystalbench.adapters._flow import FlowDecode
from crystalbench.data import find_dataset
from crystalbench.registry import find_method

PEERS: tuple[str, ...] = ()

SHARED = Path(os.environ.get("CRYSTALBENCH_SHARED", Path(__file__).parents[2] / "shared")) / "data"
"""Where the real sets lie; rows that need one are left out without."""

CELLPOSE = f"cellpose {version('cellpose')}, compute_masks, as many steps"
SETTINGS = FlowDecode()
ALL = FlowDecode(flow_threshold=0, min_size=0)

LEAST_PQ = 0.997

Field = NDArray[np.float32]


def rows() -> Iterator[Row]:
    """Yield the rows of speed, of agreement and of growth."""
    warnings.filterwarnings("ignore", "Sparse invariant checks")
    yield speed(1024, 330, 3, "at least 30 times, PQ >= 0.995")
    yield speed(1800, 146, 1, "at least 150 times, PQ >= 0.995")
    yield from touching()
    yield large_crystal()
    yield from networks()
    yield on_a_gpu()
    yield from growth()


def speed(side: int, crystals: int, repeats: int, goal: str) -> Row:
    """Time crystals that touch everywhere, with quality control."""
    labels = mosaic(side, crystals)
    field = field_of(_targets.flow_targets(labels, threads=2), labels)
    _fast_decoding.decode_fast(field, SETTINGS)
    pair = alternate(partial(_fast_decoding.decode_fast, field, SETTINGS), partial(cellpose, field, SETTINGS), repeats)
    steps = _fast_decoding.flow_steps(labels > 0)
    work = f"flow decode with quality control, {side}^2, {crystals} crystals, {steps} steps"
    return Row(work, CELLPOSE, pair.ratio, goal, f"{agreement(labels, pair)}; {pair.seconds}")


def agreement(truth: NDArray[np.int32], pair: Pair) -> str:
    """Return the PQ between both and that of both to the truth, in words."""
    between, ours, theirs = (
        evaluate(a, b).pq for a, b in ((pair.theirs, pair.ours), (truth, pair.ours), (truth, pair.theirs))
    )
    return f"PQ between the two {between:.4f}, to the truth {ours:.4f} and {theirs:.4f}"


def touching() -> Iterator[Row]:
    """Yield the PQ to the truth on real label maps' own flows, as Cellpose and as we make them; the worst image."""
    makers = {"cellpose": flows_of_cellpose, "crystalbench": partial(_targets.flow_targets, threads=2)}
    for dataset, (maker, flows) in itertools.product(real("tbm", "imagegrains", "ffc_iron"), makers.items()):
        found = []
        for sample in dataset.samples:
            labels = np.ascontiguousarray(sample.label)
            field = field_of(flows(labels), labels)
            found.append([evaluate(labels, decode(field, ALL)).pq for decode in (_fast_decoding.decode_fast, cellpose)])
        ours, theirs = np.array(found).T
        said = (
            f"{len(found)} images, {np.sum(ours < LEAST_PQ)} below; cellpose's lowest {theirs.min():.4f}, "
            f"ours {max(theirs - ours):.4f} lower at most"
        )
        work = f"flows of the truth of {dataset.name} as {maker} makes them, lowest PQ to the truth"
        yield Row(work, CELLPOSE, float(ours.min()), f"at least {LEAST_PQ}", said)


def flows_of_cellpose(labels: NDArray[np.int32]) -> NDArray[Any]:
    """Return the flow targets that Cellpose computes on the CPU."""
    return np.asarray(dynamics.masks_to_flows(labels, device=torch.device("cpu")))


def large_crystal() -> Row:
    """Count the pieces of a disc of 1500 px whose flow leads to its centre, with all settings at their ends."""
    y, x = np.mgrid[:1520, :1520] - 759.5
    labels = (np.hypot(y, x) < 750).astype(np.int32)
    field = field_of(-np.stack([y, x]) / np.maximum(np.hypot(y, x), 1), labels)
    _fast_decoding.decode_fast(field, SETTINGS)
    settings = [FlowDecode(flow_threshold=q, min_size=m) for q in (0, 0.4, 1) for m in (0, 15, 1000)]
    seconds, first = timed(lambda: _fast_decoding.decode_fast(field, settings[0]))
    counts = {int(first.max()), *(int(_fast_decoding.decode_fast(field, one).max()) for one in settings[1:])}
    theirs, pieces = timed(lambda: library(field, 200))
    said = f"ours {sorted(counts)} in {seconds:.2g} s; cellpose with its 200 steps {pieces.max()} in {theirs:.3g} s"
    return Row("crystals found in a disc of 1500 px", CELLPOSE, float(max(counts)), "1, at any setting", said)


def networks() -> Iterator[Row]:
    """Yield how far the crystals agree on flows of a network, trained on each set with the preset ``quick``."""
    for dataset in (find_dataset("demo"), *real("tbm")):
        method = find_method("cellpose-noresize")
        segmenter: Any = method.build(method.preset("quick"))
        split = dataset.split()
        segmenter.load(trained(segmenter, split.train), "cpu")
        found = [in_three_ways(segmenter.infer(sample.image)) for sample in split.test]
        between, itself = (np.array([evaluate(theirs, others[i]).pq for theirs, *others in found]) for i in range(2))
        theirs, ours, _ = (
            np.mean([evaluate(sample.label, way).pq for sample, way in zip(split.test, ways, strict=True)])
            for ways in zip(*found, strict=True)
        )
        said = (
            f"{len(found)} images, lowest {np.nanmin(between):.3f}; PQ to the truth {ours:.4f} and {theirs:.4f}; "
            f"cellpose with one step more to its own masks {np.nanmean(itself):.4f}, lowest {np.nanmin(itself):.3f}"
        )
        work = f"flows of a network, {dataset.name}, mean PQ to cellpose's masks"
        yield Row(work, CELLPOSE, float(np.nanmean(between)), "at least 0.99, PQ to the truth not lower", said)


def in_three_ways(field: Field) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """Decode with Cellpose, with ours, and with Cellpose and one step more, which says how much is chance."""
    one_more = mock.patch.object(_decoding, "flow_steps", lambda inside: _fast_decoding.flow_steps(inside) + 1)
    with one_more:
        again = cellpose(field, SETTINGS)
    return cellpose(field, SETTINGS), _fast_decoding.decode_fast(field, SETTINGS), again


def on_a_gpu() -> Row:
    """Time both on a GPU, from a field that lies there to labels on the host."""
    work, goal = "flow decode with quality control, 1800^2, 146 crystals, GPU", "at least 20 times"
    if not torch.cuda.is_available():
        return Row(work, CELLPOSE, None, goal, "no GPU here")
    labels = mosaic(1800, 146)
    field = torch.as_tensor(field_of(_targets.flow_targets(labels, threads=2), labels), device="cuda")
    pair = side_by_side(
        partial(_device_decoding.decode_on_device, field, SETTINGS, "cuda"),
        partial(_decoding.decode_reference, field, SETTINGS, "cuda"),
        repeats=3,
    )
    return Row(work, CELLPOSE, pair.ratio, goal, f"{agreement(labels, pair)}; {pair.seconds}")


def growth() -> Iterator[Row]:
    """Yield by which power of pixels and of crystals time and memory grow."""
    sides = (256, 512, 1024, 2048, 4096, 8192)
    by_pixels = [cost(side, max(1, side * side // 20_000)) for side in sides]
    yield exponent("pixels, 256^2 to 8192^2", [side * side for side in sides], by_pixels)
    counts = (10, 100, 1000, 10_000, 20_000)
    yield exponent("crystals, 10 to 20,000 on 2048^2", counts, [cost(2048, count) for count in counts])


def cost(side: int, crystals: int) -> tuple[float, float]:
    """Return the median seconds and the peak bytes of decoding a mosaic whose flow leads to the crystals' centres."""
    field = radial(side, crystals)
    _fast_decoding.decode_fast(field, SETTINGS)
    seconds = np.median([timed(lambda: _fast_decoding.decode_fast(field, SETTINGS))[0] for _ in range(3)])
    tracemalloc.start()
    _fast_decoding.decode_fast(field, SETTINGS)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return float(seconds), float(peak)


def exponent(over: str, sizes: Sequence[int], costs: Sequence[tuple[float, float]]) -> Row:
    """Fit powers to the costs."""
    seconds, peak = np.array(costs).T
    time_power, memory_power = (np.polyfit(np.log(sizes), np.log(values), 1)[0] for values in (seconds, peak))
    each = (f"{size:,}: {s:.3g} s, {p / 1e6:.0f} MB" for size, s, p in zip(sizes, seconds, peak, strict=True))
    said = f"memory of NumPy's arrays {memory_power:.2f}; {', '.join(each)}"
    return Row(f"flow decode, exponent of time over {over}", "ours", float(time_power), "stated", said)


def cellpose(field: Field, settings: FlowDecode) -> NDArray[np.int32]:
    """Decode with Cellpose's functions."""
    return _decoding.decode_reference(field, settings, "cpu")


def library(field: Field, steps: int) -> NDArray[Any]:
    """Decode with Cellpose's functions and so many steps, without quality control."""
    device = torch.device("cpu")
    return dynamics.compute_masks(
        field[:2], field[2], niter=steps, flow_threshold=0, max_size_fraction=1, device=device
    )


def field_of(flow: NDArray[Any], labels: NDArray[np.int32]) -> Field:
    """Return what a network would say that knows the truth, 3 x H x W."""
    inside = labels > 0
    return np.concatenate([5 * flow * inside, np.where(inside, 6.0, -6.0)[None]]).astype(np.float32)


def mosaic(side: int, crystals: int) -> NDArray[np.int32]:
    """Return convex crystals that touch."""
    return nearest(side, crystals)[1] + 1


def radial(side: int, crystals: int) -> Field:
    """Return the field of a mosaic, its flow straight to the centres."""
    centres, owner = nearest(side, crystals)
    away = np.stack(np.mgrid[:side, :side]).astype(np.float32) - centres[owner].transpose(2, 0, 1)
    away /= np.maximum(np.hypot(*away), 1)
    return field_of(-away, owner + 1)


def nearest(side: int, crystals: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Return random centres, and which of them each pixel is nearest to."""
    centres = np.random.default_rng(0).uniform(0, side, (crystals, 2)).astype(np.float32)
    rows = (np.stack(np.broadcast_arrays(y, np.arange(side)), axis=-1) for y in range(side))
    tree = cKDTree(centres)
    return centres, np.stack([tree.query(row, workers=-1)[1] for row in rows]).astype(np.int32)


def real(*names: str) -> Iterator[Dataset]:
    """Yield the real sets that are there."""
    yield from (open_dataset(SHARED / name) for name in names if (SHARED / name).is_dir())
