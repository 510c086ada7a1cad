from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from cellpose.models import CellposeModel, SizeModel
from cellpose.resnet_torch import CPnet
from numpy.typing import NDArray
from pydantic import ValidationError
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_targets import angles, mosaic

import crystalbench.registry  # noqa: F401  registers crystalbench.adapters
from crystalbench._exceptions import ConfigurationError, DataError
from crystalbench._files import file_sha256
from crystalbench.adapters import _augmentation, _loop, _networks, _targets, _training, _weights
from crystalbench.adapters._parameters import AttentionTrain, CpTrain, SizeTrain

CP = CpTrain(
    width=(4, 8), input_size=32, diameter=16, epochs=6, batch_size=2, optimizer="adamw", lr=0.01, warmup_epochs=1
)
ATTENTION = AttentionTrain(
    input_size=32, epochs=4, batch_size=2, optimizer="adamw", lr=0.001, warmup_epochs=1, init="random"
)


@dataclass
class Painted:
    """A sample whose crystals differ in colour."""

    label: NDArray[np.int32]

    @property
    def image(self) -> NDArray[np.uint8]:
        colours = np.random.default_rng(0).integers(60, 256, (int(self.label.max()) + 1, 3), np.uint8)
        colours[0] = 0
        return colours[self.label]


@dataclass
class Told:
    """A context that remembers what it was told."""

    folder: Path
    seed: int = 0
    device: str = "cpu"
    threads: int = 1
    checkpoints: Mapping[str, Path] = field(default_factory=dict)
    steps: list[tuple[int, int]] = field(default_factory=list)
    scalars: list[dict[str, float]] = field(default_factory=list)
    origins: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    unpickle: bool = False
    stop_at: int | None = None
    stop: Callable[[], None] = lambda: None

    def report(self, step: int, total: int, **scalars: float) -> None:
        self.steps.append((step, total))
        self.scalars.append(scalars)
        if step == self.stop_at:
            self.stop()

    def initial_weights(self, origin: str) -> None:
        self.origins.append(origin)

    def warn(self, message: str) -> None:
        self.warnings.append(message)


def samples() -> list[Any]:
    return [Painted(mosaic(50, 60, 6 + seed, seed)) for seed in range(5)]


def interrupt() -> None:
    raise KeyboardInterrupt


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def checkpoint(context: Told) -> Path:
    return context.folder / "checkpoint.safetensors"


def test_rate_rises_linearly_from_zero_and_falls_as_a_cosine() -> None:
    rates = [_loop.learning_rate(step, 110, 10, 0.1) for step in range(111)]
    assert rates[0] == 0
    assert rates[5] == pytest.approx(0.05)
    assert rates[10] == 0.1
    assert rates[35] == pytest.approx(0.1 * (0.5 + 0.5 * np.sqrt(0.5)))
    assert rates[60] == pytest.approx(0.05)
    assert rates[110] == pytest.approx(0, abs=1e-12)


def test_defaults_are_the_papers() -> None:
    assert CpTrain().model_dump() == {
        "width": (32, 64, 128, 256), "input_size": 224, "diameter": 50, "epochs": 500, "batch_size": 30, "lr": 0.1,
        "warmup_epochs": 10, "optimizer": "adam", "weight_decay": 0, "momentum": 0.9, "crops_per_image": 1,
        "brightness": (-0.2, 0.2), "contrast": (-0.2, 0.2), "init": "random", "scale_range": (0.75, 1.25),
    }  # fmt: skip
    paper = AttentionTrain()
    assert (paper.encoder, paper.lr, paper.init, paper.scale_range) == ("mit_b0", 0.01, "imagenet", (0.5, 1.5))
    assert paper.thresholds == (1, 0.5, 0.25, 0.125)
    assert paper.loss_weights == (2, 4, 6, 8, 1)


@pytest.mark.parametrize(
    ("model", "wrong", "message"),
    [
        (AttentionTrain, {"loss_weights": (1, 1)}, "one weight for each of the 4 thresholds"),
        (AttentionTrain, {"thresholds": (0.5, 0.5), "loss_weights": (1, 1, 1)}, "must decrease"),
        (CpTrain, {"scale_range": (2, 1)}, "lowest, highest"),
        (CpTrain, {"scale_range": (0, 1)}, "must be positive"),
        (CpTrain, {"lr": 0}, "greater than 0"),
        (CpTrain, {"input_size": 100}, "multiple of 16"),
    ],
)
def test_wrong_parameters_are_refused(model: type, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        model(**wrong)


def test_a_warped_flow_is_the_flow_of_the_warped_label() -> None:
    labels = mosaic(120, 140, 30, seed=5)
    flow, foreground = _targets.flow_targets(labels), (labels > 0).astype(np.uint8)
    for seed in range(8):
        matrix = _augmentation.random_warp(np.random.default_rng(seed), labels.shape, 96, (0.8, 1.25))
        warped = _augmentation.warp_flow(flow, foreground, matrix, 96)
        expected = _augmentation.warp_labels(labels, matrix, 96)
        # OpenCV rounds a coordinate on the border of two pixels differently from type to type.
        assert ((warped[0] > 0) != (expected > 0)).sum() <= 3
        whole = _whole_crystals(expected)
        again = _targets.flow_targets(np.where(whole, expected, 0).astype(np.int32))
        assert whole.sum() > 500
        difference = angles(warped[1:], again, whole)
        assert difference.mean() < 8
        assert np.median(difference) < 4
        assert np.hypot(*warped[1:])[warped[0] > 0].mean() > 0.99
        assert not warped[1:, warped[0] == 0].any()


def _whole_crystals(labels: NDArray[np.int32]) -> NDArray[np.bool_]:
    frame = np.ones(labels.shape, bool)
    frame[2:-2, 2:-2] = False
    beside_black = labels == 0
    beside_black[1:] |= labels[:-1] == 0
    beside_black[:-1] |= labels[1:] == 0
    return ~np.isin(labels, labels[frame | beside_black])


def test_a_crop_covers_a_large_image_and_holds_a_small_one() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        image = np.full((40, 60, 3), 200, np.uint8)
        matrix = _augmentation.random_warp(rng, (40, 60), 128, (0.9, 1.1))
        area = _augmentation.warp_image(image, matrix, 128)[..., 0].sum() / 200
        assert area == pytest.approx(40 * 60 * _augmentation.scale_of(matrix) ** 2, rel=0.1)


def test_light_leaves_black_black_and_keeps_to_its_ranges() -> None:
    image = np.full((8, 8, 3), 100, np.uint8)
    image[0] = 0
    for seed in range(20):
        lit = _augmentation.random_light(np.random.default_rng(seed), image, (-0.1, 0.1), (-0.2, 0.2))
        assert not lit[0].any()
        assert 80 - 26 <= lit[1:].min() <= lit[1:].max() <= 120 + 26


def test_training_leaves_a_checkpoint_and_scalars_and_learns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    context = Told(tmp_path)
    parameters = CP.model_copy(update={"epochs": 30})
    _training.fit_cp(parameters, samples(), samples()[:2], context)
    assert context.origins == ["random"]
    assert context.steps == [(step, 90) for step in range(1, 91)]
    losses = [scalars["loss"] for scalars in context.scalars]
    assert np.mean(losses[-9:]) < 0.8 * np.mean(losses[:9])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.safetensors", "tensorboard"]
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in board.Scalars("loss/train")] == list(range(90))
    assert len(board.Scalars("loss/val")) == 30
    assert [0 < event.value < 1 for event in board.Scalars("waiting")] == [True] * 30
    assert re.fullmatch(r"waiting for crops: .* s \(.*%\)\n", capsys.readouterr().out)


class Counted(_loop.Crops):
    """Crops of nothing that count how many were drawn."""

    drawn = 0

    def __len__(self) -> int:
        return 4

    def draw(self, image: int, rng: np.random.Generator) -> _loop.Crop:
        self.drawn += 1
        return np.zeros((3, 8, 8), np.float32), np.zeros(1)


def test_the_first_batch_of_an_epoch_is_drawn_during_the_last_one(tmp_path: Path) -> None:
    crops = Counted()
    objective = _loop.Supervised(torch.nn.Conv2d(3, 1, 1), torch.nn.functional.mse_loss)
    training = _loop.Training("net", objective, crops, crops, CP, Told(tmp_path), "random")
    with ThreadPoolExecutor(1) as pool:
        batches = training._batches(0, pool)
        for _ in range(training.batches):
            next(batches)
        # The pool has one thread, which takes what it was given in order.
        pool.submit(int).result()
        assert crops.drawn == len(crops) + CP.batch_size
        assert sum(1 for _ in batches) == training.batches * (CP.epochs - 1)


def test_a_checkpoint_has_the_librarys_names(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    _weights.save_checkpoint(path, _networks.cp_network((4, 8)))
    library = CPnet([3, 4, 8], nout=3, sz=3)
    assert safetensors.numpy.load_file(path).keys() == library.state_dict().keys()
    loaded = _weights.load_checkpoint(path, library)
    assert not loaded.training


KILLED = """
import sys
from pathlib import Path
import test_training as t
t._loop.STATE_EVERY, t._loop.STATE_SHARE = 0, float('inf')
t._training.fit_cp(t.CP, t.samples(), [], t.Told(Path(sys.argv[1]), stop_at=11, stop=t.kill))
"""


def test_a_training_killed_in_the_middle_of_an_epoch_ends_with_the_same_weights(tmp_path: Path) -> None:
    undisturbed, resumed = Told(tmp_path / "undisturbed"), Told(tmp_path / "killed")
    _training.fit_cp(CP, samples(), [], undisturbed)
    killed = subprocess.run([sys.executable, "-c", KILLED, str(resumed.folder)], cwd=Path(__file__).parent)
    assert killed.returncode == -signal.SIGKILL
    assert not checkpoint(resumed).exists()
    _training.fit_cp(CP, samples(), [], resumed)
    assert resumed.steps[0] == (10, 18)
    assert checkpoint(resumed).read_bytes() == checkpoint(undisturbed).read_bytes()


def test_an_interrupted_attention_training_ends_with_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_loop, "STATE_EVERY", 0)
    monkeypatch.setattr(_loop, "STATE_SHARE", float("inf"))
    undisturbed, broken = Told(tmp_path / "undisturbed"), Told(tmp_path / "broken", stop_at=8, stop=interrupt)
    _training.fit_attention(ATTENTION, samples(), samples()[:1], undisturbed)
    with pytest.raises(KeyboardInterrupt):
        _training.fit_attention(ATTENTION, samples(), samples()[:1], broken)
    resumed = Told(broken.folder)
    _training.fit_attention(ATTENTION, samples(), samples()[:1], resumed)
    assert resumed.steps[0] == (7, 12)
    assert checkpoint(resumed).read_bytes() == checkpoint(undisturbed).read_bytes()


def test_a_full_disk_leaves_the_old_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_loop, "STATE_EVERY", 0)
    monkeypatch.setattr(_loop, "STATE_SHARE", float("inf"))
    context = Told(tmp_path, stop_at=5, stop=interrupt)
    with pytest.raises(KeyboardInterrupt):
        _training.fit_cp(CP, samples(), [], context)
    state = tmp_path / "state.pt"
    before = file_sha256(state)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (state.stat().st_size // 2, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            _training.fit_cp(CP, samples(), [], Told(tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert file_sha256(state) == before


def test_a_loss_that_is_not_finite_names_the_rate(tmp_path: Path) -> None:
    wild = CP.model_copy(update={"lr": 1e30, "optimizer": "sgd"})
    with pytest.raises(ConfigurationError, match=r"train\.cp\.lr=1e\+30; set a lower one, such as 1e\+29"):
        _training.fit_cp(wild, samples(), [], Told(tmp_path))


def test_images_without_crystals_are_skipped_and_at_least_one_is_needed(tmp_path: Path) -> None:
    empty: list[Any] = [Painted(np.zeros((40, 40), np.int32))]
    assert len(_training.CpCrops([*empty, *samples()], CP, tmp_path, 1, "cpu")) == 5
    with pytest.raises(DataError, match="no training image shows a crystal"):
        _training.fit_cp(CP, empty, [], Told(tmp_path))


def test_images_are_scaled_to_the_diameter_but_not_beyond_bounds(tmp_path: Path) -> None:
    crops = _training.CpCrops(samples(), CP, tmp_path, 1, "cpu")
    for sample, foreground in zip(samples(), crops.foregrounds, strict=True):
        factor = 16 / _training.mean_diameter(sample.label)
        assert foreground.shape == tuple(round(side * factor) for side in sample.label.shape)
    wide = CP.model_copy(update={"diameter": 5000})
    crops = _training.CpCrops(samples()[:1], wide, tmp_path / "wide", 1, "cpu")
    assert crops.images[0].shape == (200, 240, 3)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_training_can_start_from_a_file(tmp_path: Path, suffix: str) -> None:
    path, network = tmp_path / f"start{suffix}", _networks.cp_network((4, 8))
    if suffix == ".pt":
        torch.save(network.state_dict(), path)
    else:
        _weights.save_checkpoint(path, network)
    context = Told(tmp_path / "run")
    frozen = CP.model_copy(update={"init": str(path), "epochs": 1, "batch_size": 10})
    _training.fit_cp(frozen, samples(), [], context)
    assert context.origins == [f"file:{file_sha256(path)[:12]}"]
    trained = safetensors.numpy.load_file(checkpoint(context))
    # One step at the warm-up's first rate, zero: the weights are those of the file.
    for name, weight in network.named_parameters():
        if weight.requires_grad:
            np.testing.assert_array_equal(trained[name], weight.detach().numpy())


def test_a_file_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "start.safetensors"
    _weights.save_checkpoint(path, _networks.cp_network((4, 16)))
    with pytest.raises(ConfigurationError, match="weights of another network"):
        _weights.load_checkpoint(path, _networks.cp_network((4, 8)))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match="cannot be read as a file of weights"):
        _weights.load_checkpoint(path, _networks.cp_network((4, 8)))


def test_without_a_network_the_encoder_starts_at_random_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    context = Told(tmp_path / "run")
    parameters = ATTENTION.model_copy(update={"init": "imagenet", "epochs": 1})
    _training.fit_attention(parameters, samples(), [], context)
    assert context.origins == ["random"]
    assert "could not be had" in context.warnings[0]


def test_the_size_regression_is_what_the_librarys_model_reads(tmp_path: Path) -> None:
    """Ruled images, whose style says how far apart the lines are."""
    ruled = [Painted(np.kron(np.arange(1, n * n + 1).reshape(n, n), np.ones((96 // n, 96 // n), int)).astype(np.int32))
             for n in (2, 3, 4, 6, 8, 12)]  # fmt: skip
    cp = CP.model_copy(update={"epochs": 1})
    network = _networks.cp_network(cp.width)
    _weights.save_checkpoint(tmp_path / "cp.safetensors", network)
    context = Told(tmp_path / "size", checkpoints={"cp": tmp_path / "cp.safetensors"})
    parameters = SizeTrain(input_size=96, epochs=8, batch_size=6, scale_range=(0.9, 1.1), l2=1e-3)
    _training.fit_size(parameters, cp, ruled, [], context)
    params = safetensors.numpy.load_file(checkpoint(context))
    assert context.steps[-1] == (8, 8)
    model = SizeModel(CellposeModel(gpu=False, pretrained_model=False, nchan=3, diam_mean=cp.diameter))
    model.params = params
    images = np.stack([_augmentation.normalize(sample.image) for sample in ruled])
    styles = network.eval()(torch.from_numpy(images))[1].detach().numpy()
    estimates = [float(model._size_estimation(style)[0]) for style in styles]
    truths = [_training.mean_diameter(sample.label) for sample in ruled]
    assert np.corrcoef(np.log(estimates), np.log(truths))[0, 1] > 0.8
    assert np.median(np.abs(np.log(np.divide(estimates, truths)))) < 0.5
