from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import SHARED, FitContext, make_squares
from numpy.typing import NDArray
from pydantic import ValidationError

from crystalbench import ConfigurationError, evaluate, open_dataset
from crystalbench.config import Tree, merge
from crystalbench.data import Dataset
from crystalbench.evaluation import centre_lines, widen_lines
from crystalbench.registry import find_method

pytest.importorskip("timm")
pytest.importorskip("pytorch_msssim")

import timm
import torch
from safetensors.numpy import load_file
from safetensors.torch import save_file
from scipy import ndimage

from crystalbench.adapters import (
    _boundary_decoding,
    _boundary_losses,
    _boundary_threshold,
    _boundary_training,
    _foreground,
    _hrnet,
    _weights,
)
from crystalbench.adapters._boundary_decoding import Boundaries
from crystalbench.adapters._boundary_parameters import BoundaryDecode, BoundaryTrain, ThresholdTrain

SMALL: Tree = {"encoder": "hrnet_w18_small", "init": "random", "input_size": 64}
STEPS: Tree = {"epochs": 3, "batch_size": 4, "optimizer": "adamw", "lr": 0.001, "warmup_epochs": 1}

# Neubauer et al. 2024, section IV-B, "Boundary model"; the loss and the network are Yu et al.'s.
PAPER_BOUNDARY = {
    "encoder": "hrnet_w18",
    "init": "imagenet",
    "input_size": 512,
    "scale_range": [1.0, 1.0],
    "epochs": 300,
    "batch_size": 16,
    "optimizer": "adam",
    "lr": 0.0075,
    "warmup_epochs": 10,
    "brightness": [-0.2, 0.2],
    "contrast": [-0.2, 0.2],
}
PAPER_THRESHOLD = {"criterion": "cldice", "candidates": [0.1, 0.2, 0.3, 0.4, 0.5]}
GRID_LR = [0.001, 0.0025, 0.005, 0.0075, 0.01]
GRID_THRESHOLD = [0.1, 0.2, 0.3, 0.4, 0.5]


def oracle_raw(label: NDArray[np.int32], image: NDArray[np.uint8], regrow_px: int = 0) -> Boundaries:
    """Return what a network without a flaw would say of an image."""
    boundary = widen_lines(centre_lines(label)).astype(np.float32)
    return Boundaries(boundary, _foreground.estimate_foreground(image), 0.5, regrow_px)


def ceiling(dataset: Dataset, regrow_px: int, count: int | None = None) -> float:
    """Return the mean PQ of the truth's own boundaries, decoded with the defaults."""
    segmenter = find_method("boundary").build({"train": {}, "infer": {}, "decode": {}})
    raws = ((sample.label, oracle_raw(sample.label, sample.image, regrow_px)) for sample in dataset.samples[:count])
    return float(np.nanmean([evaluate(label, segmenter.decode(raw, BoundaryDecode())).pq for label, raw in raws]))


def halves(gap: int = 5, side: int = 64) -> NDArray[np.int32]:
    """Two crystals with ``gap`` columns of background between them."""
    labels = np.ones((side, side), np.int32)
    labels[:, side // 2 :] = 2
    labels[:, side // 2 - gap // 2 : side // 2 - gap // 2 + gap] = 0
    return labels


def bands(width: int, side: int = 64) -> torch.Tensor:
    """Return a mask, 1 x 1 x side x side, with one line across."""
    mask = torch.zeros(1, 1, side, side)
    mask[..., side // 2 - width // 2 : side // 2 - width // 2 + width] = 1
    return mask


@dataclass
class Told(FitContext):
    """A context that remembers where weights started, and that stops a training."""

    threads: int = 1
    origins: list[str] = field(default_factory=list)
    stop_at: int | None = None

    def report(self, step: int, total: int, **scalars: float) -> None:
        super().report(step, total, **scalars)
        if step == self.stop_at:
            raise KeyboardInterrupt

    def initial_weights(self, origin: str) -> None:
        self.origins.append(origin)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Sequence[Any]:
    return open_dataset(make_squares(tmp_path_factory.mktemp("data") / "squares", 4)).samples


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory, samples: Sequence[Any]) -> dict[str, Path]:
    """A network with random weights and the threshold chosen for it."""
    folder = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(0)
    _weights.save_checkpoint(folder / "boundary.safetensors", _hrnet.BoundaryNetwork(SMALL["encoder"]))
    found = {"boundary": folder / "boundary.safetensors"}
    context = FitContext(folder / "threshold", found)
    context.folder.mkdir()
    parameters = ThresholdTrain(criterion="pq", candidates=(0.3, 0.5, 0.7))
    _boundary_threshold.fit_threshold(parameters, BoundaryTrain(**SMALL), samples, samples[:2], context)
    return {**found, "threshold": context.folder / "checkpoint.safetensors"}


def build(train: Tree | None = None, decode: Tree | None = None) -> Any:
    method = find_method("boundary")
    values = merge(method.config.values("quick"), {"train": train or {"boundary": SMALL}, "decode": decode or {}})
    return method.build(values)


# Settings


def test_paper_preset_is_the_papers() -> None:
    values = find_method("boundary").preset("paper")
    assert PAPER_BOUNDARY.items() <= values["train"]["boundary"].items()
    assert values["train"]["threshold"] == PAPER_THRESHOLD
    assert values["decode"]["threshold"] is None


def test_grids_are_the_papers() -> None:
    search = find_method("boundary").config.search
    # The threshold is chosen by its own component: one value each is set, not searched.
    threshold = {"criterion": ["cldice"], "candidates": [GRID_THRESHOLD]}
    assert search.train == {"boundary": {"lr": GRID_LR}, "threshold": threshold}
    assert search.infer == search.decode == {}


def test_parameter_count_is_that_of_the_paper_preset() -> None:
    method = find_method("boundary")
    with torch.device("meta"):
        network = _hrnet.BoundaryNetwork(method.preset("paper")["train"]["boundary"]["encoder"])
    assert method.info.parameters == sum(p.numel() for p in network.parameters()) == 9_734_567
    assert method.info.input_size == method.preset("paper")["train"]["boundary"]["input_size"]


def test_parameter_models_need_no_network_library() -> None:
    code = (
        "import sys\n"
        "from crystalbench.registry import find_method\n"
        "find_method('boundary').preset('paper')\n"
        "print({'torch', 'timm', 'cv2', 'skimage', 'scipy'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("model", "wrong"),
    [
        (BoundaryTrain, {"input_size": 32}),
        (BoundaryTrain, {"input_size": 80}),
        (BoundaryTrain, {"encoder": "hrnet_w99"}),
        (ThresholdTrain, {"candidates": ()}),
        (ThresholdTrain, {"candidates": (0.0,)}),
        (BoundaryDecode, {"threshold": 1.0}),
        (BoundaryDecode, {"regrow_px": -1}),
    ],
)
def test_wrong_parameters_are_refused(model: type, wrong: Tree) -> None:
    with pytest.raises(ValidationError):
        model(**wrong)


# Network and losses


def test_network_gives_probabilities_at_both_resolutions_and_trains_all_of_itself() -> None:
    torch.manual_seed(0)
    network = _hrnet.BoundaryNetwork("hrnet_w18_small")
    boundary, centre = network(torch.randn(2, 3, 64, 96))
    assert boundary.shape == (2, 1, 64, 96)
    assert centre.shape == (2, 1, 16, 24)
    assert 0 < min(boundary.min(), centre.min()) < max(boundary.max(), centre.max()) < 1
    boundary.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


@pytest.mark.parametrize("width", [1, 3, 5, 9])
def test_soft_skeleton_of_a_band_is_its_centre_line(width: int) -> None:
    skeleton = _boundary_losses.soft_skeleton(bands(width))
    assert torch.equal(skeleton[..., 10:-10, :], bands(1)[..., 10:-10, :])


def test_soft_cldice_sees_a_gap_that_dice_hardly_sees() -> None:
    line, broken, thin = bands(5), bands(5), bands(3)
    broken[..., 30:36, :] = 0
    losses = [_boundary_losses.soft_cldice_loss(mask, line).item() for mask in (line, thin, broken)]
    assert losses[0] == pytest.approx(0, abs=1e-6)
    assert losses[1] < losses[2] / 2
    dice = [_boundary_losses.dice_loss(mask, line).item() for mask in (thin, broken)]
    assert dice[1] < dice[0]


def test_a_perfect_prediction_has_no_loss_and_a_wrong_one_has_all_six() -> None:
    target = torch.as_tensor(widen_lines(centre_lines(halves(side=128)))).float()[None, None]
    # Aligned with the grid of S, where a target between 0 and 1 has an entropy of its own.
    target = torch.nn.functional.max_pool2d(target, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)
    coarse = torch.nn.functional.avg_pool2d(target, 4)
    perfect = _boundary_losses.boundary_losses(target, coarse, target)
    wrong = _boundary_losses.boundary_losses(1 - target, 1 - coarse, target)
    assert torch.allclose(perfect, torch.zeros(6), atol=1e-4)
    assert (wrong > 0.5).all()


@pytest.mark.parametrize("side", [64, 96, 128, 160, 192, 256])
def test_losses_have_a_finite_gradient_at_every_size_whatever_the_prediction(side: int) -> None:
    target = torch.as_tensor(widen_lines(centre_lines(halves(side=side)))).float()[None, None]
    for prediction in (1 - target, torch.zeros_like(target), torch.ones_like(target)):
        boundary = prediction.clamp(1e-6, 1 - 1e-6).requires_grad_()
        centre = torch.nn.functional.avg_pool2d(boundary, 4)
        _boundary_losses.boundary_losses(boundary, centre, target).sum().backward()
        assert boundary.grad is not None
        assert torch.isfinite(boundary.grad).all()


def test_losses_that_fell_less_weigh_more() -> None:
    objective = _boundary_losses.BoundaryObjective(torch.nn.Identity())
    means = torch.tensor([[6.0, 5, 4, 3, 2, 1], [3.0, 5, 4, 3, 2, 2], [3.0, 5, 1, 3, 2, 2]])
    weights = []
    for mean in means:
        weights.append(objective.weights())
        # An epoch of two batches.
        objective.sums += 2 * mean
        objective.batches += 2
        objective.end_epoch()
    assert torch.equal(weights[0], torch.ones(6))
    assert torch.equal(weights[1], torch.ones(6))
    ratios = means[1] / means[0]
    assert torch.allclose(weights[2], 6 * torch.exp(ratios / 2) / torch.exp(ratios / 2).sum())
    assert objective.weights().argmin() == 2


def test_validation_does_not_count_for_the_weights() -> None:
    torch.manual_seed(0)
    objective = _boundary_losses.BoundaryObjective(_hrnet.BoundaryNetwork("hrnet_w18_small")).eval()
    objective(torch.randn(1, 3, 64, 64), torch.as_tensor(halves() == 0).float()[None])
    assert objective.batches == 0


# Training


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_boundaries_are_as_wide_in_the_networks_input_whatever_the_scale(scale: float, samples: Sequence[Any]) -> None:
    crops = _boundary_training.BoundaryCrops(samples, BoundaryTrain(**{**SMALL, "scale_range": (scale, scale)}))
    crops.labels[0], crops.images[0] = halves(5), np.full((64, 64, 3), 200, np.uint8)
    image, target = crops.draw(0, np.random.default_rng(0))
    assert image.shape == (3, 64, 64)
    assert (target.shape, target.dtype) == ((64, 64), np.float32)
    # From the middle of a line of 5 px it is 3 px to the outside, a little more where a jagged line bends.
    widest = ndimage.distance_transform_edt(np.pad(target, 9, mode="edge")).max()
    # At three times the size the gap of 5 px is 15 px wide, which is no boundary.
    assert 2.2 < widest < 4 if scale <= 1 else widest == 0


def test_a_killed_training_ends_with_the_same_weights(
    tmp_path: Path, samples: Sequence[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_boundary_training._loop, "STATE_EVERY", 0.0)
    monkeypatch.setattr(_boundary_training._loop, "STATE_SHARE", 1e9)
    parameters = BoundaryTrain(**SMALL, **{**STEPS, "epochs": 5, "batch_size": 2})
    through, killed = Told(tmp_path / "through"), Told(tmp_path / "killed", stop_at=7)
    _boundary_training.fit_boundary(parameters, samples, samples[:1], through)
    with pytest.raises(KeyboardInterrupt):
        _boundary_training.fit_boundary(parameters, samples, samples[:1], killed)
    assert (killed.folder / "state.pt").is_file()
    killed.stop_at = None
    _boundary_training.fit_boundary(parameters, samples, samples[:1], killed)
    first, second = ((context.folder / "checkpoint.safetensors").read_bytes() for context in (through, killed))
    assert first == second
    assert through.steps == 10


def test_starts_from_an_encoder_as_timm_saves_it(tmp_path: Path, samples: Sequence[Any]) -> None:
    torch.manual_seed(1)
    published = timm.create_model("hrnet_w18_small").state_dict()
    save_file(published, tmp_path / "hrnet.safetensors")
    context = Told(tmp_path / "run")
    parameters = BoundaryTrain(
        **{**SMALL, **STEPS, "epochs": 1, "lr": 1e-12, "init": str(tmp_path / "hrnet.safetensors")}
    )
    _boundary_training.fit_boundary(parameters, samples, [], context)
    (origin,) = context.origins
    assert origin.startswith("file:")
    trained = load_file(context.folder / "checkpoint.safetensors")
    np.testing.assert_allclose(trained["encoder.conv1.weight"], published["conv1.weight"], atol=1e-6)
    missing, surplus = context.warnings
    assert "not filled and start at random (centre." in missing
    assert "have no place in the network" in surplus
    assert "incre_modules" in surplus


def test_starts_from_a_whole_network(tmp_path: Path, samples: Sequence[Any]) -> None:
    torch.manual_seed(1)
    _weights.save_checkpoint(tmp_path / "whole.safetensors", _hrnet.BoundaryNetwork("hrnet_w18_small"))
    context = Told(tmp_path / "run")
    parameters = BoundaryTrain(**{**SMALL, **STEPS, "epochs": 1, "init": str(tmp_path / "whole.safetensors")})
    _boundary_training.fit_boundary(parameters, samples, [], context)
    assert context.warnings == []


def test_weights_of_another_network_are_refused(tmp_path: Path, samples: Sequence[Any]) -> None:
    save_file(timm.create_model("resnet18").state_dict(), tmp_path / "resnet.safetensors")
    parameters = BoundaryTrain(**{**SMALL, **STEPS, "init": str(tmp_path / "resnet.safetensors")})
    with pytest.raises(ConfigurationError, match="weights of another network"):
        _boundary_training.fit_boundary(parameters, samples, [], Told(tmp_path / "run"))


def test_without_a_network_the_encoder_starts_at_random_and_says_so(
    tmp_path: Path, samples: Sequence[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    context = Told(tmp_path / "run")
    parameters = BoundaryTrain(**{**SMALL, **STEPS, "epochs": 1, "init": "imagenet"})
    _boundary_training.fit_boundary(parameters, samples, [], context)
    assert context.origins == ["random"]
    assert context.warnings == ["the ImageNet weights of hrnet_w18_small could not be had; it starts at random"]


# Threshold


def choose(
    folder: Path, checkpoints: dict[str, Path], samples: Sequence[Any], val: Sequence[Any], stop_at: int | None = None
) -> Told:
    context = Told(folder, {"boundary": checkpoints["boundary"]}, stop_at=stop_at)
    folder.mkdir(exist_ok=True)
    parameters = ThresholdTrain(criterion="pq", candidates=(0.3, 0.5, 0.7))
    _boundary_threshold.fit_threshold(parameters, BoundaryTrain(**SMALL), samples, val, context)
    return context


@pytest.mark.parametrize("criterion", ["pq", "cldice"])
def test_the_best_candidate_is_chosen(criterion: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    label = halves()
    sample: Any = type("Drawn", (), {"label": label, "image": np.full((64, 64, 3), 200, np.uint8)})
    # A true boundary of 0.4 and a false one of 0.25, which leaves a threshold of 0.3 alone.
    probability = np.where(label == 0, np.float32(0.4), np.float32(0))
    probability[30:35] = np.maximum(probability[30:35], 0.25)
    monkeypatch.setattr(_boundary_threshold, "load_predictor", lambda *args: lambda image: probability)
    context = Told(tmp_path, {"boundary": Path()})
    parameters = ThresholdTrain(criterion=criterion)
    _boundary_threshold.fit_threshold(parameters, BoundaryTrain(), [sample], [sample], context)
    chosen = load_file(tmp_path / "checkpoint.safetensors")
    np.testing.assert_allclose(chosen["threshold"], [0.3])
    np.testing.assert_allclose(chosen["candidates"], parameters.candidates)
    assert chosen["scores"].argmax() == 2
    assert chosen["scores"][2] > 0.95
    assert chosen["scores"][0] == chosen["scores"][1] < 0.9
    assert chosen["regrow_px"] == [0]


def test_a_killed_choice_goes_on_where_it_stood(
    tmp_path: Path, checkpoints: dict[str, Path], samples: Sequence[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KeyboardInterrupt):
        choose(tmp_path / "killed", checkpoints, samples, samples[:2], stop_at=1)
    seen: list[str] = []
    score = _boundary_threshold._score
    monkeypatch.setattr(_boundary_threshold, "_score", lambda *args: (seen.append(args[2].name), score(*args))[1])
    choose(tmp_path / "killed", checkpoints, samples, samples[:2])
    assert seen == [samples[1].name]
    again = (tmp_path / "killed" / "checkpoint.safetensors").read_bytes()
    assert again == checkpoints["threshold"].read_bytes()
    choose(tmp_path / "killed", checkpoints, samples, samples[:2])
    assert len(seen) == 1


def test_without_validation_images_the_threshold_is_the_papers(
    tmp_path: Path, checkpoints: dict[str, Path], samples: Sequence[Any]
) -> None:
    context = choose(tmp_path / "none", checkpoints, samples, [])
    assert load_file(context.folder / "checkpoint.safetensors")["threshold"] == [0.2]
    assert len(context.warnings) == 1
    assert "no validation image" in context.warnings[0]


def test_the_chosen_threshold_is_used_unless_one_is_given(checkpoints: dict[str, Path]) -> None:
    chosen = load_file(checkpoints["threshold"])["threshold"][0]
    segmenter = build()
    segmenter.load(checkpoints, "cpu")
    raw = segmenter.infer(np.full((40, 50, 3), 120, np.uint8))
    segmenter.decode(raw, BoundaryDecode())
    assert segmenter.details == {"threshold": chosen, "regrow_px": raw.regrow_px}
    segmenter.decode(raw, BoundaryDecode(threshold=0.11, regrow_px=2))
    assert segmenter.details == {"threshold": 0.11, "regrow_px": 2}


# Prediction


@pytest.mark.parametrize("shape", [(1, 1), (3, 70), (64, 64), (130, 90)])
def test_predicts_images_of_any_shape(shape: tuple[int, int], checkpoints: dict[str, Path]) -> None:
    segmenter = build()
    segmenter.load(checkpoints, "cpu")
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    labels = segmenter.predict(image)
    assert (labels.shape, labels.dtype) == (shape, np.int32)
    assert set(segmenter.stages) == {"boundary", "foreground", "post-processing"}
    assert {(p.shape, p.dtype) for p in segmenter.pictures(image).values()} == {((*shape, 3), np.dtype("u1"))}


def test_a_prediction_is_the_mean_over_windows_of_boundary_and_s(checkpoints: dict[str, Path]) -> None:
    segmenter = build()
    segmenter.load(checkpoints, "cpu")
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3)).astype(np.uint8)
    left, right = (segmenter.infer(image[:, start : start + 64]).probability for start in (0, 32))
    whole = segmenter.infer(image).probability
    np.testing.assert_allclose(whole[:, :32], left[:, :32], atol=1e-5)
    np.testing.assert_allclose(whole[:, 32:64], (left[:, 32:] + right[:, :32]) / 2, atol=1e-5)
    np.testing.assert_allclose(whole[:, 64:], right[:, 32:], atol=1e-5)
    pixels = torch.as_tensor((image[:, :64].transpose(2, 0, 1).astype(np.float32) - 128) / 64)[None]
    with torch.inference_mode():
        boundary, centre = segmenter._predict.network(pixels)
    centre = torch.nn.functional.interpolate(centre, scale_factor=4, mode="bilinear")
    np.testing.assert_allclose(left, ((boundary + centre) / 2)[0, 0], atol=1e-5)


def test_several_windows_a_pass_change_nothing(checkpoints: dict[str, Path]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (130, 90, 3)).astype(np.uint8)
    found = []
    for batch_size in (1, 4):
        segmenter = find_method("boundary").build(
            {"train": {"boundary": SMALL}, "infer": {"batch_size": batch_size}, "decode": {}}
        )
        segmenter.load(checkpoints, "cpu")
        found.append(segmenter.infer(image).probability)
    np.testing.assert_allclose(*found, atol=1e-5)


# Decoding


def test_lines_reach_the_frame() -> None:
    label = halves()
    labels = build().decode(oracle_raw(label, np.full((64, 64, 3), 200, np.uint8)), BoundaryDecode())
    assert evaluate(label, labels).pq == 1


def test_the_background_is_no_crystal_and_crystals_end_with_it() -> None:
    label = halves(0)
    foreground = np.zeros((64, 64), bool)
    foreground[10:50, 5:60] = True
    raw = Boundaries(widen_lines(centre_lines(label)).astype(np.float32), foreground, 0.5, 3)
    labels = build().decode(raw, BoundaryDecode())
    np.testing.assert_array_equal(labels > 0, foreground)
    assert len(np.unique(labels)) == 3


@pytest.mark.parametrize("gap", [0, 1, 2, 3, 4, 5, 7])
def test_crystals_are_grown_back_as_far_as_the_training_labels_ask(gap: int) -> None:
    regrow_px = _boundary_decoding.missing_px([halves(gap)])
    assert regrow_px == max(0, math.ceil((5 - gap) / 2))
    raw = oracle_raw(halves(gap), np.full((64, 64, 3), 200, np.uint8), regrow_px)
    between = build().decode(raw, BoundaryDecode())[32] == 0
    assert abs(between.sum() - min(gap, 5)) <= 1


def test_labels_without_a_boundary_ask_for_no_growth() -> None:
    assert _boundary_decoding.missing_px([]) == 0
    assert _boundary_decoding.missing_px([np.ones((9, 9), np.int32), np.zeros((9, 9), np.int32)]) == 0


def test_small_crystals_are_dropped_and_the_others_numbered() -> None:
    probability = np.zeros((64, 64), np.float32)
    probability[:, [8, 40]] = probability[8] = 1
    raw = Boundaries(probability, np.ones((64, 64), bool), 0.5, 0)
    sizes = [np.unique(build().decode(raw, BoundaryDecode(min_size=size)), return_counts=True) for size in (0, 200)]
    assert sizes[0][0].tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert sizes[1][0].tolist() == [0, 1, 2, 3]
    assert sizes[1][1][1:].min() >= 200


def test_decode_leaves_what_it_was_given() -> None:
    raw = oracle_raw(halves(), np.full((64, 64, 3), 200, np.uint8), 3)
    before = raw.probability.copy(), raw.foreground.copy()
    first = build().decode(raw, BoundaryDecode())
    np.testing.assert_array_equal(build().decode(raw, BoundaryDecode()), first)
    np.testing.assert_array_equal(raw.probability, before[0])
    np.testing.assert_array_equal(raw.foreground, before[1])


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="the real micrographs are not here")
@pytest.mark.parametrize(
    ("name", "regrow_px", "without", "least"), [("tbm", 3, 0.42, 0.83), ("ffc_iron", 3, 0.71, 0.92)]
)
def test_ceiling_of_real_sets_needs_growth(name: str, regrow_px: int, without: float, least: float) -> None:
    dataset = open_dataset(SHARED / "data" / name)
    assert _boundary_decoding.missing_px(sample.label for sample in dataset.samples) == regrow_px
    qualities = [ceiling(dataset, growth) for growth in (0, regrow_px)]
    print(f"{name}: C {qualities[0]:.3f}, grown by {regrow_px} px {qualities[1]:.3f}")
    assert qualities[0] <= without
    assert qualities[1] >= least
