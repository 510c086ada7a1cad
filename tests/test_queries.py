"""What MaskFormer and OneFormer have in common."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import FitContext
from numpy.typing import NDArray

from crystalbench import ConfigurationError
from crystalbench._exceptions import DataError
from crystalbench.config import Tree, merge
from crystalbench.registry import find_method

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from safetensors.torch import load_file, save_file

from crystalbench.adapters import _augmentation, _query_decoding, _query_networks, _query_training
from crystalbench.adapters._queries import Answer, Answers
from crystalbench.adapters._query_parameters import QueryDecode

METHODS = ("maskformer", "oneformer")
LR_GRID = [1e-6, 5e-6, 1e-5, 5e-5, 1e-4]
SCORE_GRID = [0.0, 0.25, 0.5, 0.75]
STRIDE = 4


def oracle_raw(label: NDArray[np.int32], side: int = 512, mode: str = "resized", queries: int | None = None) -> Answers:
    """Return what a perfect network says: one query for each crystal, at the network's resolution.

    The logit of a cell is linear in the share of it that the crystal covers. ``queries`` keeps the largest crystals
    of a window alone.
    """
    shown = {"resized": _query_networks.whole, "windows": _query_networks.overlapping}[mode]
    image = np.zeros((*label.shape, 3), np.uint8)
    return Answers(
        (label.shape[0], label.shape[1]),
        tuple(_oracle_answer(label[window], window, scale, queries) for window, _, scale in shown(image, side)),
    )


def _oracle_answer(
    label: NDArray[np.int32], window: tuple[slice, slice], scale: tuple[float, float], queries: int | None
) -> Answer:
    numbers, areas = np.unique(label[label > 0], return_counts=True)
    numbers = numbers[np.argsort(-areas, kind="stable")][:queries]
    cells = (scale[0] / STRIDE, scale[1] / STRIDE)
    shape = [max(1, round(length * factor)) for length, factor in zip(label.shape, scale, strict=True)]
    rows, columns = (-(-length // STRIDE) for length in shape)
    logits = np.zeros((len(numbers), rows, columns), np.float16)
    padding = [(0, rows * STRIDE - shape[0]), (0, columns * STRIDE - shape[1])]
    shrinks = shape[0] * shape[1] < label.size
    for number, plane in zip(numbers, logits, strict=True):
        mask = (label == number).astype(np.float32)
        mask = cv2.resize(mask, tuple(shape[::-1]), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        blocks = np.pad(mask, padding, mode="edge").reshape(rows, STRIDE, columns, STRIDE)
        plane[:] = 16 * blocks.mean(axis=(1, 3)) - 8
    return Answer(window, cells, np.ones(len(numbers), np.float32), logits)


def mosaic(height: int, width: int, count: int, seed: int = 0) -> NDArray[np.int32]:
    """Return crystals that touch: the pixels nearest to each of some seeds."""
    rng = np.random.default_rng(seed)
    seeds = (rng.random((count, 2)) * [height, width]).astype(int)
    markers = np.ones((height, width), np.uint8)
    markers[seeds[:, 0], seeds[:, 1]] = 0
    _, nearest = cv2.distanceTransformWithLabels(markers, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    return np.asarray(nearest, np.int32)


def noise(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)


def build(name: str, changes: Tree | None = None) -> Any:
    """Return a method with parameters that are trained in a second."""
    method = find_method(name)
    return method.build(merge(method.config.tiny_values(), changes or {}))


def trained(name: str, changes: Tree | None = None) -> Any:
    return build(name, {"train": {name: {"epochs": 4, "lr": 0.01, **(changes or {})}}})


class Small:
    """A sample of a few crystals."""

    name = "small"

    def __init__(self, count: int = 5, seed: int = 0) -> None:
        self.label = mosaic(60, 80, count, seed)
        self.image = np.random.default_rng(seed).integers(60, 256, (count + 1, 3)).astype(np.uint8)[self.label]


def fit(segmenter: Any, folder: Path, samples: list[Any] | None = None, **changes: Any) -> FitContext:
    folder.mkdir(parents=True, exist_ok=True)
    (component,) = segmenter.components
    context = FitContext(folder, **changes)
    segmenter.fit(component.name, samples or [Small(seed=seed) for seed in range(3)], [Small(seed=9)], context)
    return context


def loaded(segmenter: Any, folder: Path) -> Any:
    (component,) = segmenter.components
    segmenter.load({component.name: folder / "checkpoint.safetensors"}, "cpu")
    return segmenter


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the folder of a training of each method."""
    made = {name: tmp_path_factory.mktemp(name) for name in METHODS}
    for name, folder in made.items():
        fit(build(name), folder)
    return made


# Settings


@pytest.mark.parametrize("name", METHODS)
def test_grids_are_the_papers(name: str) -> None:
    search = find_method(name).config.search
    assert search.train == {name: {"lr": LR_GRID}}
    assert search.decode == {"score_threshold": SCORE_GRID}
    # The paper does not say how an image is shown.
    assert search.infer == {"mode": ["resized", "windows"]}


def test_parameter_models_need_no_network_library() -> None:
    code = (
        "import sys\n"
        "from crystalbench.registry import find_method\n"
        f"for name in {METHODS}: find_method(name).preset('paper')\n"
        "print({'torch', 'transformers', 'cv2', 'scipy'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# Decoding


def test_a_mask_is_interpolated_as_torch_does() -> None:
    logits = np.random.default_rng(0).normal(size=(1, 7, 9)).astype(np.float16)
    answer = Answer((slice(10, 38), slice(0, 36)), (0.25, 0.25), np.ones(1, np.float32), logits)
    box, mask = _query_decoding.mask_of(answer, 0, 0.3)
    whole = np.zeros((28, 36), bool)
    whole[box] = mask
    fine = torch.nn.functional.interpolate(
        torch.from_numpy(logits.astype(np.float32))[None], scale_factor=4, mode="bilinear"
    )
    np.testing.assert_array_equal(whole, fine[0, 0].numpy() > 0.3)


@pytest.mark.parametrize("shape", [(40, 40), (200, 90), (33, 150), (1, 60), (60, 1)])
def test_a_mask_that_fills_the_window_fills_the_image(shape: tuple[int, int]) -> None:
    labels = _query_decoding.decode(oracle_raw(np.ones(shape, np.int32), 64), QueryDecode(min_size=0))
    assert (labels == 1).all()


def squares_answer(*squares: tuple[int, int, float, float]) -> Answers:
    """Return queries whose masks are columns ``first`` to ``last`` of ten, with their scores and logits."""
    logits = np.full((len(squares), 10, 10), -8, np.float16)
    for plane, (first, last, _, logit) in zip(logits, squares, strict=True):
        plane[:, first:last] = logit
    window = (slice(0, 40), slice(0, 40))
    scores = np.array([score for *_, score, _ in squares], np.float32)
    return Answers((40, 40), (Answer(window, (0.25, 0.25), scores, logits),))


def columns_of(labels: NDArray[np.int32]) -> list[int]:
    assert (labels == labels[:1]).all()
    return [int(number) for number in labels[0, 2::4]]


def test_the_higher_score_wins_and_the_other_keeps_the_rest() -> None:
    raw = squares_answer((4, 10, 0.7, 8.0), (0, 5, 0.9, 8.0))
    labels = _query_decoding.decode(raw, QueryDecode(overlap_threshold=0.8))
    first, second = labels[0, 2], labels[0, -2]
    assert columns_of(labels) == [first] * 5 + [second] * 5
    alone = _query_decoding.decode(raw, QueryDecode(overlap_threshold=0.9))
    assert [bool(number) for number in columns_of(alone)] == [True] * 5 + [False] * 5


def test_a_score_is_that_of_class_and_mask() -> None:
    raw = squares_answer((0, 5, 0.9, 8.0), (5, 10, 0.9, 1.0))
    np.testing.assert_allclose(
        _query_decoding.confidences(raw.windows[0], 0.5), np.float32(0.9) / (1 + np.exp([-8.0, -1.0]))
    )
    assert len(np.unique(_query_decoding.decode(raw, QueryDecode(score_threshold=0.5)))) == 3
    assert len(np.unique(_query_decoding.decode(raw, QueryDecode(score_threshold=0.8)))) == 2


@pytest.mark.parametrize(("mask_threshold", "found"), [(0.5, True), (0.8, False)])
def test_masks_are_cut_at_the_threshold(mask_threshold: float, found: bool) -> None:
    raw = squares_answer((0, 5, 0.9, 1.0))
    labels = _query_decoding.decode(raw, QueryDecode(score_threshold=0, mask_threshold=mask_threshold))
    assert labels.any() == found


def test_crystals_that_joining_makes_small_are_dropped() -> None:
    # Of the second window's crystal the first window's takes half.
    first, second = np.zeros((16, 32), np.int32), np.zeros((16, 32), np.int32)
    first[:, 16:], second[:, 8:24] = 1, 1
    answers = [
        Answer((slice(0, 16), window), (1.0, 1.0), np.ones(1, np.float32), np.float16(20 * (label[None] > 0) - 10))
        for window, label in ((slice(0, 32), first), (slice(16, 48), second))
    ]
    raw = Answers((16, 48), tuple(answers))
    sizes = [np.bincount(_query_decoding.decode(raw, QueryDecode(min_size=size)).ravel())[1:] for size in (0, 129, 257)]
    assert [size.tolist() for size in sizes] == [[256, 128], [256], []]


def test_small_crystals_are_dropped() -> None:
    raw = squares_answer((0, 1, 0.9, 8.0), (3, 9, 0.9, 8.0))
    assert len(np.unique(_query_decoding.decode(raw, QueryDecode(min_size=100)))) == 3
    assert len(np.unique(_query_decoding.decode(raw, QueryDecode(min_size=300)))) == 2


def test_decoding_leaves_the_queries_as_they_were() -> None:
    raw = oracle_raw(mosaic(150, 170, 30), 64, "windows")
    before = pickle.dumps(raw)
    first, second = (_query_decoding.decode(raw, QueryDecode()) for _ in range(2))
    assert pickle.dumps(raw) == before
    np.testing.assert_array_equal(first, second)


# Prediction


@pytest.mark.parametrize("mode", ["resized", "windows"])
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("shape", [(1, 1), (3, 70), (64, 64), (130, 90)])
def test_predicts_images_of_any_shape_offline(
    name: str, mode: str, shape: tuple[int, int], folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError("no network in a prediction")

    monkeypatch.setattr(socket, "socket", refuse)
    segmenter = loaded(build(name, {"infer": {"mode": mode}}), folders[name])
    labels = segmenter.predict(noise(*shape))
    assert (labels.shape, labels.dtype) == (shape, np.int32)
    assert set(segmenter.stages) == {"network", "post-processing"}


@pytest.mark.parametrize("name", METHODS)
def test_same_image_same_answer_whatever_came_before(name: str, folders: dict[str, Path]) -> None:
    segmenter = loaded(build(name), folders[name])
    first = segmenter.infer(noise(90, 130))
    segmenter.infer(noise(40, 40))
    assert pickle.dumps(segmenter.infer(noise(90, 130))) == pickle.dumps(first)


def test_windows_overlap_by_half_and_the_whole_image_is_one() -> None:
    image = noise(130, 90)
    corners = [(w[0].start, w[1].start) for w, _, _ in _query_networks.overlapping(image, 64)]
    assert corners == [(y, x) for y in (0, 32, 64, 66) for x in (0, 26)]
    ((window, pixels, scale),) = _query_networks.whole(image, 64)
    assert window == (slice(0, 130), slice(0, 90))
    assert scale == (64 / 130, 44 / 90)
    assert pixels.shape == (64, 64, 3)
    assert not pixels[:, 44:].any()
    assert pixels[:, 43].any()


class Sure(torch.nn.Module):
    """A network whose queries all show a crystal: a half of the input each, the last one nothing."""

    def forward(self, images: Any) -> Any:
        from types import SimpleNamespace

        masks = torch.full((len(images), 3, 16, 16), -9.0)
        masks[:, 0, :, :8] = 9.0
        masks[:, 1, :, 8:] = 9.0
        return SimpleNamespace(
            class_queries_logits=torch.tensor([5.0, -5.0]).expand(len(images), 3, 2), masks_queries_logits=masks
        )


def test_only_queries_with_a_mask_and_cells_of_the_image_are_kept() -> None:
    shown = list(_query_networks.whole(noise(64, 40), 64))
    (answer,) = _query_networks.ask(Sure(), shown, 1, "cpu")
    assert answer.logits.shape == (2, 16, 10)
    assert answer.logits.dtype == np.float16
    np.testing.assert_allclose(answer.scores, 1, atol=1e-3)


@pytest.mark.parametrize("queries", [2, 3])
def test_a_window_that_uses_all_queries_is_warned_of(queries: int) -> None:
    segmenter = build("maskformer", {"train": {"maskformer": {"queries": queries, "input_size": 64}}})
    segmenter._network = Sure()
    if queries == 2:
        with pytest.warns(UserWarning, match="all 2 queries show crystals"):
            segmenter.infer(noise(64, 64))
    else:
        segmenter.infer(noise(64, 64))
    assert segmenter.details == {"windows": 1, "most_queries_used": 2, "queries_exhausted": queries == 2}


# Training


def test_crops_come_with_their_labels() -> None:
    sample = Small()
    parameters = trained("maskformer", {"crop_scale": "image", "scale_range": [1, 1]}).parameters
    crops = _query_training.QueryCrops([sample], parameters)
    image, label = crops.draw(0, np.random.default_rng(0))
    assert (image.shape, image.dtype) == ((3, 64, 64), np.float32)
    assert (label.shape, label.dtype) == ((64, 64), np.int32)
    # Each crystal of this sample has one colour.
    for number in np.unique(label):
        inside = (
            cv2.erode(
                (label == number).astype(np.uint8), np.ones((5, 5)), borderType=cv2.BORDER_CONSTANT, borderValue=0
            )
            > 0
        )
        assert np.ptp(image[:, inside], axis=1).max(initial=0) == 0


def test_a_crop_that_is_not_turned_is_what_prediction_sees() -> None:
    still: Tree = {"turn": False, "scale_range": [1, 1], "brightness": [0, 0], "contrast": [0, 0]}
    sample = Small()
    crops = _query_training.QueryCrops([sample], trained("maskformer", {**still, "crop_scale": "input"}).parameters)
    image, label = crops.draw(0, np.random.default_rng(0))
    ((_, shown, _),) = _query_networks.whole(sample.image, 64)
    np.testing.assert_array_equal(image, _augmentation.normalize(shown))
    assert not label[48:].any()
    small = _query_training.QueryCrops([sample], trained("maskformer", {**still, "crop_scale": "image"}).parameters)
    for seed in range(5):
        image, label = small.draw(0, np.random.default_rng(seed))
        (left,) = [x for x in range(17) if np.array_equal(label[:60], sample.label[:, x : x + 64])]
        expected = _augmentation.normalize(sample.image[:, left : left + 64])
        np.testing.assert_array_equal(image[:, :60], expected)


@pytest.mark.parametrize(("crop_scale", "shape"), [("image", (60, 80)), ("input", (48, 64))])
def test_crops_are_of_the_image_or_of_what_the_input_holds(crop_scale: str, shape: tuple[int, int]) -> None:
    crops = _query_training.QueryCrops([Small()], trained("maskformer", {"crop_scale": crop_scale}).parameters)
    ((image, label),) = crops.samples
    assert label.shape == image.shape[:2] == shape


def test_instances_are_masks_without_slivers() -> None:
    label = torch.zeros(20, 20, dtype=torch.int32)
    label[:4, :4], label[10:, :], label[0, 10:19] = 7, 70000, 3
    masks = _query_training.instances(label)
    assert masks.dtype == torch.float32
    assert [int(mask.sum()) for mask in masks] == [16, 200]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("empty", [[0], [0, 1]])
def test_crops_without_crystals_can_be_trained_on(name: str, empty: list[int]) -> None:
    segmenter = trained(name)
    model, _ = segmenter.library().initial(segmenter.parameters, FitContext(Path()))
    objective = segmenter.library().objective(model, segmenter.parameters)
    targets = torch.from_numpy(np.stack([mosaic(64, 64, 3), mosaic(64, 64, 3)]))
    targets[empty] = 0
    loss = objective(torch.rand(2, 3, 64, 64), targets)
    loss.backward()
    assert loss.isfinite()
    gradients = [weight.grad for weight in objective.parameters() if weight.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("name", METHODS)
def test_more_crystals_than_queries_can_be_trained_on_and_are_warned_of(name: str, tmp_path: Path) -> None:
    context = fit(build(name), tmp_path, [Small(30), Small(3)])
    assert context.steps == 2
    assert len([w for w in context.warnings if "more than 4 crystals" in w]) == 2
    assert "1 of 2 training images" in context.warnings[0]
    assert "small shows 30" in context.warnings[0]


CONTINUE = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_queries import FitContext, Small, fit, trained
from crystalbench.adapters import _loop
_loop.STATE_EVERY = 0
class Killed(FitContext):
    def report(self, step, total, **scalars):
        if step == 5: os.kill(os.getpid(), signal.SIGKILL)
segmenter = trained({name!r})
samples = [Small(seed=seed) for seed in range(3)]
segmenter.fit({name!r}, samples, [Small(seed=9)], Killed(Path({folder!r})))
"""


@pytest.mark.parametrize("name", METHODS)
def test_a_killed_training_ends_with_the_same_weights(name: str, tmp_path: Path) -> None:
    changes = {"dropout": 0.1, "drop_path": 0.1, "batch_size": 2}
    fit(trained(name, changes), tmp_path / "whole")
    (tmp_path / "killed").mkdir()
    code = CONTINUE.format(tests=str(Path(__file__).parent), name=name, folder=str(tmp_path / "killed"))
    done = subprocess.run([sys.executable, "-c", code.replace("trained(", f"trained(changes={changes}, name=")])
    assert done.returncode == -signal.SIGKILL
    assert (tmp_path / "killed" / "state.pt").is_file()
    fit(trained(name, changes), tmp_path / "killed")
    whole, killed = ((tmp_path / run / "checkpoint.safetensors").read_bytes() for run in ("whole", "killed"))
    assert whole == killed


# Starting points


def published(name: str, folder: Path, changes: Tree | None = None) -> dict[str, Any]:
    """Save a model for seven classes as its authors would, and return its weights."""
    segmenter = trained(name, changes)
    config = segmenter.library().config(segmenter.parameters, True)
    config.num_labels = 7
    torch.manual_seed(1)
    model = segmenter.library().model(config)
    model.save_pretrained(folder)
    weights: dict[str, Any] = model.state_dict()
    return weights


def started(name: str, init: Path, folder: Path, **changes: Any) -> tuple[dict[str, Any], str, list[str]]:
    """Return the weights that a training starts from, their origin, and the warnings."""
    segmenter = trained(name, {"init": str(init)})
    context = FitContext(folder, **changes)
    model, origin = segmenter.library().initial(segmenter.parameters, context)
    return model.state_dict(), origin, context.warnings


@pytest.mark.parametrize("name", METHODS)
def test_weights_of_half_precision_are_trained_in_full(name: str, tmp_path: Path) -> None:
    segmenter = trained(name)
    segmenter.library().model(segmenter.library().config(segmenter.parameters, True)).half().save_pretrained(tmp_path)
    weights, _, _ = started(name, tmp_path, tmp_path)
    # One of the library's own scalars has 64 bit.
    assert {value.dtype for value in weights.values() if value.is_floating_point()} <= {torch.float32, torch.float64}


def differing(own: dict[str, Any], weights: dict[str, Any]) -> set[str]:
    return {key for key, value in weights.items() if not torch.equal(own[key], value)}


HEAD = {
    "maskformer": {"class_predictor.weight", "class_predictor.bias"},
    "oneformer": {f"model.transformer_module.decoder.class_embed.{part}" for part in ("weight", "bias")},
}


@pytest.mark.parametrize("name", METHODS)
def test_starts_from_a_folder_of_the_hub(name: str, tmp_path: Path) -> None:
    weights = published(name, tmp_path / "hub")
    saved = load_file(tmp_path / "hub" / "model.safetensors")
    lost = "model.pixel_level_module.decoder.mask_projection.bias"
    # Drawn anew, a bias is zero, as it was.
    weights[lost] += 1
    del saved[lost]
    surplus = {"model.surplus.weight": torch.zeros(3)}
    save_file({**saved, **surplus}, tmp_path / "hub" / "model.safetensors", {"format": "pt"})
    own, origin, warnings = started(name, tmp_path / "hub", tmp_path)
    assert origin.startswith("file:")
    assert len(origin) == 17
    missing, left_out, misshapen = warnings
    assert f"1 tensors of the network are not filled and start at random ({lost})" in missing
    assert "1 tensors of the file have no place in the network and are left out (model.surplus.weight)" in left_out
    assert "3 tensors of the file have another shape" in misshapen
    assert differing(own, weights) == {lost, "criterion.empty_weight", *HEAD[name]}


@pytest.mark.parametrize("name", METHODS)
def test_starts_from_a_file_of_weights(name: str, tmp_path: Path) -> None:
    weights = published(name, tmp_path / "hub")
    own, origin, warnings = started(name, tmp_path / "hub" / "model.safetensors", tmp_path)
    assert origin.startswith("file:")
    assert len(warnings) == 1
    assert differing(own, weights) == {"criterion.empty_weight", *HEAD[name]}


@pytest.mark.parametrize("name", METHODS)
def test_weights_of_another_network_are_refused(name: str, tmp_path: Path) -> None:
    published(name, tmp_path / "hub", {"embed_dim": 16, "width": 128, "feedforward": 64})
    with pytest.raises(ConfigurationError, match="holds weights of another network"):
        started(name, tmp_path / "hub", tmp_path)


class Run:
    """Unpickled, this writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_a_folder_that_would_be_unpickled_is_refused(tmp_path: Path) -> None:
    weights = published("maskformer", tmp_path / "hub")
    saved = load_file(tmp_path / "hub" / "model.safetensors")
    (tmp_path / "hub" / "model.safetensors").unlink()
    pickled = tmp_path / "hub" / "pytorch_model.bin"
    torch.save(saved, pickled)
    own, _, _ = started("maskformer", tmp_path / "hub", tmp_path)
    assert differing(own, weights) == {"criterion.empty_weight", *HEAD["maskformer"]}
    torch.save({**saved, "more": Run(tmp_path / "ran")}, pickled)
    with pytest.raises(DataError, match="--unpickle-weights if you trust it"):
        started("maskformer", tmp_path / "hub", tmp_path)
    assert not (tmp_path / "ran").exists()
    own, _, _ = started("maskformer", tmp_path / "hub", tmp_path, unpickle=True)
    assert (tmp_path / "ran").exists()
    assert differing(own, weights) == {"criterion.empty_weight", *HEAD["maskformer"]}


@pytest.mark.parametrize("init", ["/nowhere", "empty"])
def test_a_starting_point_that_is_none_is_named(init: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigurationError, match=init):
        started("maskformer", tmp_path / init, tmp_path)


OFFLINE = """
import sys
sys.path.insert(0, {tests!r})
from test_queries import FitContext, Path, trained
segmenter = trained({name!r}, {{"init": "ade20k"}})
context = FitContext(Path())
print(segmenter.library().initial(segmenter.parameters, context)[1], *context.warnings, sep="\\n")
"""


@pytest.mark.parametrize("name", METHODS)
def test_offline_it_starts_at_random_and_says_so(name: str, tmp_path: Path) -> None:
    code = OFFLINE.format(tests=str(Path(__file__).parent), name=name)
    # Told that there is no network, the library's client does not try five times.
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=offline)
    origin, warning = done.stdout.splitlines()
    assert origin == "random"
    assert "could not be had; it starts at random" in warning


@pytest.mark.parametrize("name", METHODS)
def test_random_queries_differ(name: str, tmp_path: Path) -> None:
    segmenter = trained(name, {"queries": 50})
    model, _ = segmenter.library().initial(segmenter.parameters, FitContext(tmp_path))
    deviation = model.get_submodule("model.transformer_module.queries_embedder").weight.std()
    assert float(deviation) == pytest.approx(1, abs=0.1)
