from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import FitContext

from crystalbench import ConfigurationError, Sample, evaluate
from crystalbench.config import PRESETS, Tree, merge
from crystalbench.data import find_dataset
from crystalbench.registry import find_method

pytest.importorskip("torch")
pytest.importorskip("cellpose")
pytest.importorskip("segmentation_models_pytorch")

import torch
from safetensors.numpy import save

from crystalbench.adapters import _flow, _fusion, _networks, _size, _targets, _tiling, _weights
from crystalbench.adapters import cellpose as cellpose_adapter

METHODS = ("sima", "cellpose", "cellpose-multiscale", "cellpose-noresize")
NARROW = {"width": [4, 8, 16, 32], "input_size": 64, "diameter": 20.0}

# Neubauer et al. 2024, section IV-B.
PAPER_CP = {
    "width": [32, 64, 128, 256],
    "input_size": 224,
    "diameter": 50.0,
    "scale_range": [0.75, 1.25],
    "epochs": 500,
    "batch_size": 30,
    "optimizer": "adam",
    "lr": 0.1,
    "warmup_epochs": 10,
}
PAPER_ATTENTION = {
    "encoder": "mit_b0",
    "init": "imagenet",
    "input_size": 224,
    "scale_range": [0.5, 1.5],
    "thresholds": [1.0, 0.5, 0.25, 0.125],
    "loss_weights": [2, 4, 6, 8, 1],
    "epochs": 500,
    "batch_size": 30,
    "optimizer": "adam",
    "lr": 0.01,
    "warmup_epochs": 10,
}
PAPER_INFER = {"resize_factors": ["input", 0.5, 0.75, 1.0], "small_image_factor": 0.25}
GRID_CP = {"diameter": [30, 50, 100], "lr": [0.05, 0.1, 0.2, 0.4]}
GRID_ATTENTION = {
    "lr": [0.01, 0.05, 0.1],
    "loss_weights": [[2, 4, 6, 8, 1], [2, 3, 4, 5, 1], [1, 1, 1, 1, 1]],
    "thresholds": [[1.0, 0.5, 0.25, 0.125], [1.0, 0.25, 0.125, 0.0625], [1.0, 0.4, 0.2, 0.1]],
    "encoder": ["mit_b0", "mobilenet_v2", "resnext50_32x4d"],
}
GRID_R1, GRID_R2, GRID_R3 = [0.1, 0.25], [0.25, 0.5], [0.5, 0.75]
GRID_DECODE = {"foreground_threshold": [0.0, 0.25, 0.5]}


def narrow(values: Tree) -> Tree:
    """Return parameter values of networks that are built and run in milliseconds."""
    parts = {"cp": NARROW, "attention": {"encoder": "mit_b0", "input_size": 64}}
    return merge(values, {"train": {name: parts[name] for name in parts if name in values["train"]}})


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    files = {name: folder / f"{name}.safetensors" for name in ("cp", "attention", "size")}
    torch.manual_seed(0)
    _weights.save_checkpoint(files["cp"], _networks.cp_network(NARROW["width"]))
    _weights.save_checkpoint(files["attention"], _networks.attention_network("mit_b0", 5)[0])
    write_regression(files["size"], log_ratio=0.5)
    return files


def write_regression(path: Path, log_ratio: float) -> None:
    """Write a regression that says the same of every image: exp(log_ratio) times the training's diameter."""
    values = {"A": np.zeros(32), "smean": np.zeros(32), "ymean": log_ratio, "diam_mean": NARROW["diameter"]}
    path.write_bytes(save({name: np.asarray(value, np.float64) for name, value in values.items()}))


def load(name: str, checkpoints: dict[str, Path], infer: Tree | None = None) -> Any:
    method = find_method(name)
    segmenter = method.build(merge(narrow(method.config.values("quick")), {"infer": infer or {}}))
    segmenter.load(checkpoints, "cpu")
    return segmenter


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)


# Settings


@pytest.mark.parametrize("preset", PRESETS)
def test_one_flow_network_serves_all(preset: str) -> None:
    trainings = [find_method(name).preset(preset)["train"]["cp"] for name in METHODS]  # type: ignore[arg-type]
    assert all(training == trainings[0] for training in trainings)


@pytest.mark.parametrize("name", METHODS)
def test_paper_preset_is_the_papers(name: str) -> None:
    values = find_method(name).preset("paper")
    assert PAPER_CP.items() <= values["train"]["cp"].items()
    assert values["decode"]["foreground_threshold"] == 0
    if "resize_factors" in values["infer"]:
        assert PAPER_INFER.items() <= values["infer"].items()
    if name == "sima":
        assert PAPER_ATTENTION.items() <= values["train"]["attention"].items()
        assert values["infer"]["fusion"] == "attention"


@pytest.mark.parametrize("name", METHODS)
def test_grids_are_the_papers(name: str) -> None:
    search = find_method(name).config.search
    assert search.train["cp"] == GRID_CP
    assert search.decode == GRID_DECODE
    assert search.train.get("attention") == (GRID_ATTENTION if name == "sima" else None)


@pytest.mark.parametrize(("name", "counts"), [("sima", [4]), ("cellpose-multiscale", [2, 3, 4])])
def test_grids_of_resize_factors(name: str, counts: list[int]) -> None:
    search = find_method(name).config.search.infer
    # r_1 resizes to the input; the paper's values for it are those of images that are not larger than that.
    assert search["small_image_factor"] == GRID_R1
    four = [["input", r2, r3, 1.0] for r2 in GRID_R2 for r3 in GRID_R3 if r2 < r3]
    three = [["input", r, 1.0] for r in sorted({*GRID_R2, *GRID_R3})]
    by_count = {2: [["input", 1.0]], 3: three, 4: four}
    expected = [factors for count in counts for factors in by_count[count]]
    assert sorted(search["resize_factors"], key=str) == sorted(expected, key=str)


@pytest.mark.parametrize("name", METHODS)
def test_parameter_count_is_that_of_the_paper_preset(name: str) -> None:
    method = find_method(name)
    train = method.build(method.config.values("paper")).train
    with torch.device("meta"):
        networks = [_networks.cp_network(train["cp"].width)]
    if "attention" in train:
        # Its encoder computes its dropout rates with tensors, which are none on the meta device.
        encoder, maps = train["attention"].encoder, len(train["attention"].loss_weights)
        networks.append(_networks.attention_network(encoder, maps)[0])
    counted = sum(p.numel() for network in networks for p in network.parameters())
    assert method.info.parameters == counted
    assert method.info.input_size == train["cp"].input_size == 224


def test_attention_needs_a_map_for_each_scale() -> None:
    method = find_method("sima")
    three = {"infer": {"resize_factors": ["input", 0.5, 1.0]}}
    with pytest.raises(ConfigurationError, match="gives 4 attention maps and"):
        method.build(merge(method.config.values("paper"), three))
    method.build(merge(method.config.values("paper"), merge(three, {"infer": {"fusion": "average"}})))


def test_parameter_models_need_no_network_library() -> None:
    code = (
        "import sys\n"
        "from crystalbench.registry import find_method\n"
        f"for name in {METHODS}: find_method(name).preset('paper')\n"
        "print({'torch', 'cellpose', 'cv2', 'numba', 'scipy'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# Prediction


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("shape", [(1, 1), (3, 70), (64, 64), (130, 90)])
def test_predicts_images_of_any_shape_offline(
    name: str, shape: tuple[int, int], checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError("no network in a prediction")

    monkeypatch.setattr(socket, "socket", refuse)
    segmenter = load(name, checkpoints)
    labels = segmenter.predict(noise(*shape))
    assert (labels.shape, labels.dtype) == (shape, np.int32)
    first = {"sima": {"attention"}, "cellpose": {"size"}}.get(name, set())
    assert set(segmenter.stages) == {*first, "cp", "post-processing"}


@pytest.mark.parametrize("name", METHODS)
def test_same_image_same_labels_whatever_came_before(name: str, checkpoints: dict[str, Path]) -> None:
    segmenter = load(name, checkpoints)
    first = segmenter.infer(noise(90, 130))
    segmenter.infer(noise(40, 40))
    np.testing.assert_array_equal(segmenter.infer(noise(90, 130)), first)


@pytest.mark.parametrize("name", METHODS)
def test_pictures_are_of_the_images_shape(name: str, checkpoints: dict[str, Path]) -> None:
    pictures = load(name, checkpoints).pictures(noise(130, 90))
    extra = [*(f"flow r={r}" for r in ("0.49", "0.5", "0.75", "1")), *(f"attention {i}" for i in (1, 2, 3, 4))]
    assert list(pictures) == [*(extra if name == "sima" else []), "flow", "foreground"]
    assert {(picture.shape, picture.dtype) for picture in pictures.values()} == {((130, 90, 3), np.dtype("u1"))}


def test_sima_weighs_each_scale_with_its_map(checkpoints: dict[str, Path]) -> None:
    segmenter = load("sima", checkpoints)
    image = noise(130, 90)
    scales, maps = segmenter.scales(image).numpy(), segmenter.attention(image).numpy()
    assert scales.shape == (4, 3, 130, 90)
    assert maps.shape == (5, 130, 90)
    assert 0 <= maps.min() <= maps.max() <= 1
    by_hand = (scales * maps[:4, None]).sum(axis=0) / maps[:4].sum(axis=0)
    np.testing.assert_allclose(segmenter.infer(image), by_hand, atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "factors"),
    [((200, 100), (64 / 200, 0.5, 0.75, 1.0)), ((100, 80), (0.25, 0.5, 0.75, 1.0)), ((60, 64), (0.25, 0.5, 0.75, 1.0))],
)
def test_resize_factors_are_told(
    shape: tuple[int, int], factors: tuple[float, ...], checkpoints: dict[str, Path]
) -> None:
    segmenter = load("cellpose-multiscale", checkpoints)
    segmenter.predict(noise(*shape))
    assert segmenter.details["resize_factors"] == pytest.approx(factors)


@pytest.mark.parametrize("fusion", ["average", "maximum"])
def test_sima_without_attention_is_cellpose_multiscale(fusion: str, checkpoints: dict[str, Path]) -> None:
    sima, multiscale = (load(name, checkpoints, {"fusion": fusion}) for name in ("sima", "cellpose-multiscale"))
    image = noise(130, 90)
    np.testing.assert_array_equal(sima.infer(image), multiscale.infer(image))
    assert "attention" not in sima.stages


def test_without_resizing_there_is_one_scale(checkpoints: dict[str, Path]) -> None:
    image = noise(130, 90)
    whole = load("cellpose-noresize", checkpoints)
    last = load("sima", checkpoints).scales(image)[-1]
    # What else is in a batch changes the last bits.
    np.testing.assert_allclose(whole.infer(image), last, rtol=1e-4, atol=1e-6)


def test_cellpose_resizes_by_the_estimated_size(checkpoints: dict[str, Path]) -> None:
    segmenter = load("cellpose", checkpoints)
    image = noise(130, 90)
    factor = NARROW["diameter"] / segmenter._size.estimate(image)
    np.testing.assert_array_equal(segmenter.infer(image), segmenter.fields(image, [factor])[0])
    assert segmenter.details["resize_factor"] == pytest.approx(factor)


def narrow_network() -> _tiling.TiledNetwork:
    return _tiling.tiled(_networks.cp_network(NARROW["width"]), 64, _flow.Tiles(), "cpu")


@pytest.mark.parametrize("log_ratio", [-0.7, 0.0, 1.1])
def test_regression_is_the_librarys_whatever_the_width(log_ratio: float, tmp_path: Path) -> None:
    write_regression(tmp_path / "size.safetensors", log_ratio)
    estimator = _size.SizeEstimator(narrow_network(), tmp_path / "size.safetensors")
    found = estimator.model.eval(np.zeros((100, 80, 3), np.float32), channel_axis=-1, normalize=False)
    assert found[1] == pytest.approx(NARROW["diameter"] * np.exp(log_ratio))


def test_library_network_sees_black_where_the_library_pads(tmp_path: Path) -> None:
    network = narrow_network()
    seen: list[torch.Tensor] = []
    network.network.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    write_regression(tmp_path / "size.safetensors", 0.0)
    estimator = _size.SizeEstimator(network, tmp_path / "size.safetensors")
    estimator.estimate(np.full((64, 64, 3), 255, np.uint8))
    assert {tile.min().item() for tile in seen} == {-2.0}


@pytest.mark.parametrize(
    ("factor", "side", "expected"), [(0.5, 900, 0.5), (0.001, 900, 0.05), (50, 100, 4), (3, 2048, 2), (2, 8000, 1)]
)
def test_absurd_estimates_are_bounded(factor: float, side: int, expected: float) -> None:
    if factor == expected:
        assert cellpose_adapter.clamp_factor(factor, side) == expected
        return
    with pytest.warns(UserWarning, match=f"{expected:.3g} is used"):
        assert cellpose_adapter.clamp_factor(factor, side) == expected


# Trained


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_true_attention_maps_are_at_least_as_good_as_predicted_ones(tmp_path: Path) -> None:
    split = find_dataset("demo").split()
    method = find_method("sima")
    segmenter: Any = method.build(method.config.values("quick"))
    for component in ("cp", "attention"):
        segmenter.fit(component, split.train, split.val, FitContext(tmp_path / component))
    segmenter.load({name: tmp_path / name / "checkpoint.safetensors" for name in ("cp", "attention")}, "cpu")
    quality = np.array([attention_quality(segmenter, sample) for sample in split.val])
    predicted, true = quality.mean(axis=0)
    assert true >= predicted >= 0.5


def attention_quality(segmenter: Any, sample: Sample) -> tuple[float, float]:
    """Return the PQ of one image with predicted and with true attention maps."""
    image, label = sample.image, sample.label
    scales, thresholds = segmenter.scales(image), segmenter.train["attention"].thresholds
    true = torch.from_numpy(_targets.attention_targets(label, thresholds, max(label.shape))).float()
    fused = [_fusion.by_attention(scales, maps[:-1]) for maps in (segmenter.attention(image), true)]
    labels = [segmenter.decode(field.numpy(), segmenter.decode_parameters) for field in fused]
    predicted, ideal = (evaluate(label, found).pq for found in labels)
    return predicted, ideal
