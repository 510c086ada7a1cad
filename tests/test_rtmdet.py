from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import FitContext
from numpy.typing import NDArray

from crystalbench._exceptions import ConfigurationError, DataError
from crystalbench._files import file_sha256
from crystalbench.config import PRESETS, merge
from crystalbench.registry import find_method

torch = pytest.importorskip("torch")
pytest.importorskip("mmengine")
pytest.importorskip("mmcv")
pytest.importorskip("mmdet")

from crystalbench.adapters import _mmcv

_mmcv.provide_nms()

# ruff: noqa: E402
import mmcv.ops
import safetensors.torch
from mmengine.runner import save_checkpoint
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor
from torch.nn import functional

from crystalbench.adapters import _loop, _rtmdet_decoding, _rtmdet_network, _rtmdet_training, _weights, rtmdet

NARROW = {
    "widen_factor": 0.0625, "input_size": 64, "epochs": 6, "batch_size": 2, "optimizer": "adamw", "lr": 0.002,
    "warmup_epochs": 1, "init": "random",
}  # fmt: skip

# Section IV-B of the paper.
PAPER_TRAIN = {
    "input_size": 640, "epochs": 200, "batch_size": 16, "lr": 1e-5, "optimizer": "adam", "warmup_epochs": 10,
    "max_instances": 200, "init": "coco",
}  # fmt: skip
PAPER_DECODE = {"nms_iou_threshold": 0.2, "mask_threshold": 0.5, "score_threshold": 0.3}
GRID_TRAIN = {"lr": [1e-5, 5e-5, 1e-4, 5e-4, 1e-3]}
GRID_DECODE = {
    "nms_iou_threshold": [0.0, 0.1, 0.2], "mask_threshold": [0.1, 0.25, 0.5], "score_threshold": [0.1, 0.2, 0.3],
}  # fmt: skip


@dataclass
class Painted:
    """A sample of coloured blocks."""

    seed: int
    blocks: int = 3

    @property
    def label(self) -> NDArray[np.int32]:
        side = 78 // self.blocks
        label = np.kron(np.arange(1, self.blocks**2 + 1).reshape(self.blocks, -1), np.ones((side, side)))
        label[::side] = label[:, ::side] = 0
        return label.astype(np.int32)

    @property
    def image(self) -> NDArray[np.uint8]:
        colours = np.random.default_rng(self.seed).integers(60, 256, (self.blocks**2 + 1, 3), np.uint8)
        colours[0] = 0
        return colours[self.label]


@dataclass
class Told(FitContext):
    """A context that remembers what it was told, and may stop a training."""

    threads: int = 1
    origins: list[str] = field(default_factory=list)
    told: list[tuple[int, int, dict[str, float]]] = field(default_factory=list)
    stop_at: int | None = None
    stop: Callable[[], None] = lambda: None

    def report(self, step: int, total: int, **scalars: float) -> None:
        self.told.append((step, total, scalars))
        if step == self.stop_at:
            self.stop()

    def initial_weights(self, origin: str) -> None:
        self.origins.append(origin)


def narrow(**changes: Any) -> rtmdet.RtmdetTrain:
    return rtmdet.RtmdetTrain(**{**NARROW, **changes})


def samples() -> list[Any]:
    return [Painted(seed) for seed in range(5)]


def interrupt() -> None:
    raise KeyboardInterrupt


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def checkpoint(context: Told) -> Path:
    return context.folder / "checkpoint.safetensors"


def noise(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)


# Settings


def test_paper_preset_is_the_papers() -> None:
    values = find_method("rtmdet").preset("paper")
    assert PAPER_TRAIN.items() <= values["train"]["rtmdet"].items()
    assert PAPER_DECODE.items() <= values["decode"].items()


def test_grid_is_the_papers() -> None:
    search = find_method("rtmdet").config.search
    assert search.train == {"rtmdet": GRID_TRAIN}
    assert search.decode == GRID_DECODE
    # The paper does not say how an image is shown.
    assert search.infer == {"mode": ["windows", "resized"]}


def test_no_threshold_of_the_grid_is_under_the_lowest_score_kept() -> None:
    assert min(GRID_DECODE["score_threshold"]) >= rtmdet.LOWEST_SCORE
    with pytest.raises(ConfigurationError, match="score_threshold"):
        find_method("rtmdet").parameters(
            merge(find_method("rtmdet").preset("quick"), {"decode": {"score_threshold": 0.0}})
        )


def test_parameter_count_is_that_of_the_paper_preset() -> None:
    method = find_method("rtmdet")
    parameters = method.build(method.config.values("paper")).train["rtmdet"]
    with torch.device("meta"):
        network = _rtmdet_network.build(parameters)
    assert method.info.parameters == sum(weight.numel() for weight in network.parameters()) == 5_615_198
    assert method.info.input_size == parameters.input_size == 640


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_builds_its_network(preset: Any) -> None:
    method = find_method("rtmdet")
    with torch.device("meta"):
        network = _rtmdet_network.build(method.build(method.preset(preset)).train["rtmdet"])
    assert not any(isinstance(module, torch.nn.SyncBatchNorm) for module in network.modules())
    assert network.bbox_head.num_classes == 1


def test_parameter_models_need_no_network_library() -> None:
    code = (
        "import sys\n"
        "from crystalbench.registry import find_method\n"
        "find_method('rtmdet').preset('paper')\n"
        "print({'torch', 'mmengine', 'mmcv', 'mmdet', 'cv2'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# Non-maximum suppression


def reference_nms(boxes: NDArray[np.float32], scores: NDArray[np.float32], threshold: float) -> list[int]:
    kept: list[int] = []
    for i in np.argsort(-scores, kind="stable"):
        if all(iou(boxes[i], boxes[j]) <= threshold for j in kept):
            kept.append(int(i))
    return kept


def iou(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    width, height = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    both = max(0.0, float(width)) * max(0.0, float(height))
    return both / (float(np.prod(a[2:] - a[:2])) + float(np.prod(b[2:] - b[:2])) - both)


def boxes_and_scores(seed: int, count: int = 120) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    corners, sizes = rng.uniform(0, 80, (count, 2)), rng.uniform(1, 50, (count, 2))
    boxes = np.concatenate([corners, corners + sizes], axis=1).astype(np.float32)
    return torch.from_numpy(boxes), torch.from_numpy(rng.permutation(count).astype(np.float32) / count)


@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.2, 0.6])
def test_suppression_is_that_of_a_plain_loop(threshold: float) -> None:
    for seed in range(5):
        boxes, scores = boxes_and_scores(seed)
        expected = reference_nms(boxes.numpy(), scores.numpy(), threshold)
        assert _mmcv.substitute().nms(boxes, scores, iou_threshold=threshold).tolist() == expected
        assert mmcv.ops.nms(boxes, scores, threshold)[1].tolist() == expected


def test_other_operators_say_what_they_need() -> None:
    with pytest.raises(NotImplementedError, match="roi_align_forward needs compiled mmcv"):
        _mmcv.substitute().roi_align_forward(1, 2)
    with pytest.raises(NotImplementedError, match="offset 1"):
        _mmcv.substitute().nms(*boxes_and_scores(0), iou_threshold=0.5, offset=1)


def test_compiled_operators_give_the_same_detections() -> None:
    if getattr(sys.modules[_mmcv.EXTENSION], "__file__", None) is None:
        pytest.skip("mmcv is installed without its compiled operators")
    for seed in range(20):
        boxes, scores = boxes_and_scores(seed, 400)
        compiled = sys.modules[_mmcv.EXTENSION].nms(boxes, scores, iou_threshold=0.2, offset=0)
        assert compiled.tolist() == _mmcv.substitute().nms(boxes, scores, iou_threshold=0.2).tolist()


# Detection and decoding


def excited(parameters: rtmdet.RtmdetTrain) -> Any:
    """A network of random weights that sees crystals everywhere: frayed diamonds, larger the lower the level."""
    torch.manual_seed(0)
    network: Any = _rtmdet_network.build(parameters)
    head = network.bbox_head
    for distance, kernel in zip(head.rtm_reg, head.rtm_kernel, strict=True):
        torch.nn.init.constant_(distance.bias, 1)
        torch.nn.init.normal_(kernel.weight, std=0.1)
        kernel.bias.data = diamond(head.dyconv_channels, head.num_prototypes)
    for level in head.rtm_cls:
        torch.nn.init.normal_(level.weight, std=0.5)
    # Batch norm takes its means from what the network sees.
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        head(network.extract_feat(2 * torch.randn(4, 3, 128, 128)))
    return network.eval()


def diamond(channels: int, prototypes: int) -> Tensor:
    """Return a kernel whose mask falls off with the distance from the detection's place."""
    first, second = torch.zeros(channels, 2 + prototypes), torch.eye(channels)
    first[:4, :2] = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]])
    last = torch.zeros(channels)
    last[:4] = -30
    return torch.cat([first.flatten(), second.flatten(), last, torch.zeros(2 * channels), torch.tensor([6.0])])


def library_label(network: Any, image: NDArray[np.uint8], decode: rtmdet.RtmdetDecode) -> NDArray[np.int32]:
    """Return what mmdetection itself makes of an image of the input's size; the higher score wins a pixel."""
    head, shape = network.bbox_head, image.shape[:2]
    cfg = head.test_cfg.copy()
    cfg.update(score_thr=decode.score_threshold, mask_thr_binary=decode.mask_threshold, max_per_img=1000)
    cfg.nms.iou_threshold = decode.nms_iou_threshold
    data = {"inputs": [_rtmdet_network.to_input(image)], "data_samples": None}
    features = network.extract_feat(network.data_preprocessor(data)["inputs"])
    (found,) = head.predict_by_feat(
        *head(features), batch_img_metas=[{"img_shape": shape, "ori_shape": shape}], cfg=cfg
    )
    label = np.zeros(shape, np.int32)
    for number, mask in reversed(list(enumerate(found.masks.numpy(), start=1))):
        label[mask] = number
    return label


def partition(label: NDArray[np.int32]) -> set[bytes]:
    return {np.packbits(label == number).tobytes() for number in np.unique(label) if number}


@pytest.mark.parametrize("thresholds", [(0.3, 0.2, 0.5), (0.5, 0.0, 0.1), (0.4, 0.6, 0.8)])
def test_one_window_is_decoded_as_the_library_does(thresholds: tuple[float, float, float]) -> None:
    score, suppression, mask = thresholds
    decode = rtmdet.RtmdetDecode(score_threshold=score, nms_iou_threshold=suppression, mask_threshold=mask, min_size=1)
    network, image = excited(narrow(input_size=128)), noise(128, 128)
    (view,) = _rtmdet_network.view_windows(image, 128)
    with torch.inference_mode():
        expected = library_label(network, image, decode)
    raw = _rtmdet_decoding.Raw((128, 128), (_rtmdet_network.detect(network, view, rtmdet.LOWEST_SCORE),))
    assert len(np.unique(expected)) > 3
    assert partition(_rtmdet_decoding.decode(raw, decode)) == partition(expected)


def test_masks_are_those_of_the_library() -> None:
    network = excited(narrow())
    (view,) = _rtmdet_network.view_windows(noise(64, 64), 64)
    found = _rtmdet_network.detect(network, view, 0.0)
    masks: Any = found.masks
    expected = network.bbox_head._mask_predict_by_feat_single(masks.features, masks.kernels, masks.priors)
    torch.testing.assert_close(masks(torch.arange(len(found.scores))), expected)


@pytest.mark.parametrize("scale", [1.0, 0.31, 2.7])
def test_a_mask_is_enlarged_as_a_whole_would_be(scale: float) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        logits = cv2.GaussianBlur(rng.normal(size=(16, 16)).astype(np.float32), (0, 0), 1.5)
        cells = torch.from_numpy(logits)[None, None]
        length = int(16 * 8 / scale)
        grid = (np.arange(length) + 0.5) * scale / 64 - 1
        places = torch.from_numpy(np.stack(np.meshgrid(grid, grid), axis=-1)[None]).float()
        options = {"align_corners": False, "padding_mode": "border"}
        whole = functional.grid_sample(cells, places, **options)[0, 0].numpy()
        threshold = np.quantile(logits, 0.8)
        extent, mask = _rtmdet_decoding.enlarge(logits, (length, length), (scale, scale), threshold)
        pasted = np.zeros((length, length), bool)
        pasted[extent] = mask
        unclear = np.abs(whole - threshold) < 1e-4
        np.testing.assert_array_equal(pasted | unclear, (whole > threshold) | unclear)


def test_a_mask_under_the_threshold_everywhere_is_empty() -> None:
    (rows, columns), mask = _rtmdet_decoding.enlarge(np.zeros((8, 8), np.float32), (64, 64), (1.0, 1.0), 0.5)
    assert mask.size == 0
    assert rows.start == rows.stop
    assert columns.start == columns.stop


def test_the_higher_score_wins_and_small_ones_are_dropped() -> None:
    logits = torch.full((3, 8, 8), -5.0)
    logits[0, 1:5, 1:5], logits[1, 3:7, 3:7], logits[2, 0, 7] = 5, 5, 0.1
    boxes = torch.tensor([[8.0, 8, 40, 40], [24, 24, 56, 56], [56, 0, 64, 8]])
    whole = (slice(0, 64), slice(0, 64))
    found = _rtmdet_decoding.Detections(whole, (1, 1), boxes, torch.tensor([0.6, 0.9, 0.8]), lambda some: logits[some])
    label = _rtmdet_decoding.decode(_rtmdet_decoding.Raw((64, 64), (found,)), rtmdet.RtmdetDecode(min_size=100))
    assert label[30, 30] == label[50, 50] != label[15, 15]
    assert set(np.unique(label)) == {0, 1, 2}
    assert label[4, 60] == 0


# Ceilings: perfect detections at the network's stride


def oracle_raw(label: NDArray[np.int32], mode: str = "windows", side: int = 640) -> _rtmdet_decoding.Raw:
    """Return what a perfect network would say of an image: true boxes, scores of 1, true masks at the mask's stride."""
    views = _rtmdet_network.VIEWS[mode](np.zeros((*label.shape, 3), np.uint8), side)
    found = tuple(perfect(label[window], window, scale, side) for _, window, scale in views)
    return _rtmdet_decoding.Raw((label.shape[0], label.shape[1]), found)


def perfect(
    label: NDArray[np.int32], window: Any, scale: tuple[float, float], side: int
) -> _rtmdet_decoding.Detections:
    height, width = (round(length * factor) for length, factor in zip(label.shape, scale, strict=True))
    seen = cv2.resize(label.astype(np.float64), (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    seen = torch.from_numpy(np.pad(seen, [(0, side - height), (0, side - width)]))
    masks = [(seen == number).float() for number in torch.unique(seen) if number]
    boxes = torch.zeros(len(masks), 4)
    logits = torch.zeros(len(masks), side // 8, side // 8)
    for i, mask in enumerate(masks):
        y, x = torch.nonzero(mask, as_tuple=True)
        boxes[i] = torch.stack([x.min(), y.min(), x.max() + 1, y.max() + 1])
        logits[i] = functional.avg_pool2d(mask[None], 8)[0].logit(eps=1e-3)
    return _rtmdet_decoding.Detections(window, scale, boxes, torch.ones(len(masks)), lambda some: logits[some])


# Training


def test_a_crop_is_what_mmdetection_wants_and_depends_on_seed_epoch_and_number_alone() -> None:
    crops = _rtmdet_training.CrystalCrops(samples(), narrow(crops_per_image=2), seed=3)
    assert len(crops) == 10
    crop = crops[17]
    truth = crop["data_samples"].gt_instances
    assert (crop["inputs"].shape, crop["inputs"].dtype) == ((3, 64, 64), torch.uint8)
    for mask, box in zip(truth.masks.masks, truth.bboxes.int().tolist(), strict=True):
        rows, columns = np.nonzero(mask)
        assert box == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert not truth.labels.any()
    _ = crops[3]
    again = _rtmdet_training.CrystalCrops(samples(), narrow(crops_per_image=2), seed=3)[17]
    assert torch.equal(crop["inputs"], again["inputs"])
    np.testing.assert_array_equal(truth.masks.masks, again["data_samples"].gt_instances.masks.masks)
    assert not torch.equal(crop["inputs"], crops[7]["inputs"])


def test_of_many_crystals_a_random_choice_is_shown() -> None:
    label, rng = Painted(0, blocks=6).label, np.random.default_rng(0)
    whole = {mask.tobytes() for mask in _rtmdet_training.instance_masks(label, 200, rng)}
    some, others = (_rtmdet_training.instance_masks(label, 10, rng) for _ in range(2))
    assert len(whole) == 36
    assert some.shape == others.shape == (10, 78, 78)
    assert {mask.tobytes() for mask in some} < whole
    assert (some != others).any()


def test_each_epoch_shows_every_crop_once_in_an_order_of_its_own() -> None:
    sampler = _rtmdet_training.EpochSampler(10, seed=0)
    first = list(sampler)
    sampler.set_epoch(2)
    third = list(sampler)
    assert sorted(first) == list(range(10))
    assert sorted(third) == list(range(20, 30))
    assert [crop - 20 for crop in third] != first


def test_training_leaves_a_checkpoint_and_scalars_and_learns(tmp_path: Path) -> None:
    context, parameters = Told(tmp_path), narrow(epochs=60, batch_size=5, warmup_epochs=5, lr=0.01)
    _rtmdet_training.fit(parameters, samples(), context)
    assert context.origins == ["random"]
    assert [step[:2] for step in context.told] == [(step, 60) for step in range(1, 61)]
    losses, rates = ([scalars[name] for *_, scalars in context.told] for name in ("loss", "lr"))
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    np.testing.assert_allclose(rates, [_loop.learning_rate(step, 60, 5, 0.01) for step in range(60)], atol=1.01e-7)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.safetensors", "tensorboard"]
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in board.Scalars("loss_mask")] == list(range(1, 61))
    np.testing.assert_allclose([event.value for event in board.Scalars("loss")], losses, rtol=1e-5)


KILLED = """
import sys
from pathlib import Path
import test_rtmdet as t
t._loop.STATE_EVERY = 0
t._loop.STATE_SHARE = 1
t._rtmdet_training.fit(t.narrow(), t.samples(), t.Told(Path(sys.argv[1]), stop_at=11, stop=t.kill))
"""


def test_a_training_killed_in_the_middle_of_an_epoch_ends_with_the_same_weights(tmp_path: Path) -> None:
    undisturbed, resumed = Told(tmp_path / "undisturbed"), Told(tmp_path / "killed")
    torch.rand(5)
    _rtmdet_training.fit(narrow(), samples(), undisturbed)
    killed = subprocess.run([sys.executable, "-c", KILLED, str(resumed.folder)], cwd=Path(__file__).parent)
    assert killed.returncode == -signal.SIGKILL
    assert not checkpoint(resumed).exists()
    _rtmdet_training.fit(narrow(), samples(), resumed)
    assert resumed.told[0][:2] == (10, 18)
    assert resumed.origins == ["random"]
    assert checkpoint(resumed).read_bytes() == checkpoint(undisturbed).read_bytes()
    assert sorted(path.name for path in resumed.folder.iterdir()) == ["checkpoint.safetensors", "tensorboard"]


def test_a_finished_training_is_not_begun_again(tmp_path: Path) -> None:
    _rtmdet_training.fit(narrow(epochs=1), samples(), Told(tmp_path))
    (tmp_path / "mmengine").mkdir()
    again = Told(tmp_path)
    _rtmdet_training.fit(narrow(epochs=1), samples(), again)
    assert (again.told, again.origins) == ([], ["random"])
    assert not (tmp_path / "mmengine").exists()


def test_a_loss_that_is_not_finite_names_the_rate(tmp_path: Path) -> None:
    wild = narrow(lr=1e30, optimizer="sgd")
    with pytest.raises(ConfigurationError, match=r"train\.rtmdet\.lr=1e\+30; set a lower one, such as 1e\+29"):
        _rtmdet_training.fit(wild, samples(), Told(tmp_path))


def test_images_without_crystals_are_skipped_and_at_least_one_is_needed(tmp_path: Path) -> None:
    @dataclass
    class Empty:
        image = np.zeros((40, 40, 3), np.uint8)
        label = np.zeros((40, 40), np.int32)

    nothing: list[Any] = [Empty()]
    assert len(_rtmdet_training.CrystalCrops([*nothing, *samples()], narrow(), 0)) == 5
    with pytest.raises(DataError, match="no training image shows a crystal"):
        _rtmdet_training.fit(narrow(), nothing, Told(tmp_path))


def test_a_crop_without_crystals_can_be_learnt_from(tmp_path: Path) -> None:
    @dataclass
    class Corner:
        image = noise(600, 600)
        label = np.pad(np.ones((1, 1), np.int32), (0, 599))

    corner: list[Any] = [Corner()]
    context = Told(tmp_path)
    _rtmdet_training.fit(narrow(epochs=2, batch_size=1), corner, context)
    assert len(context.told) == 2


# Starting points


def published(folder: Path, classes: int = 80) -> Path:
    """Write the weights of a network of ``classes``, as mmengine writes them."""
    parameters = narrow()
    config = _rtmdet_network.config(parameters.widen_factor, parameters.deepen_factor)
    config.model.bbox_head.num_classes = classes
    network = _rtmdet_network.build_from(config)
    torch.manual_seed(5)
    network.init_weights()
    path = folder / "rtmdet.pth"
    save_checkpoint({"meta": {"epoch": 300}, "state_dict": network.state_dict()}, str(path))
    return path


def first_weights(init: str, folder: Path) -> tuple[Told, dict[str, Tensor]]:
    """Return the weights after one step at the warm-up's first rate, next to zero, and what the context was told."""
    context = Told(folder)
    _rtmdet_training.fit(narrow(init=init, epochs=1, batch_size=10, lr=1e-9), samples(), context)
    return context, safetensors.torch.load_file(checkpoint(context))


def test_training_can_start_from_a_checkpoint_of_mmengine(tmp_path: Path) -> None:
    path = published(tmp_path)
    context, weights = first_weights(str(path), tmp_path / "run")
    assert context.origins == [f"file:{file_sha256(path)[:12]}"]
    given = torch.load(path, weights_only=True)["state_dict"]
    for name in ("backbone.stem.0.conv.weight", "bbox_head.rtm_kernel.2.weight"):
        torch.testing.assert_close(weights[name], given[name])
    (warning,) = [text for text in context.warnings if "another shape" in text]
    assert "6 tensors of the file" in warning
    assert "bbox_head.rtm_cls.0.weight" in warning


def test_training_can_start_from_a_state_that_mmengine_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_loop, "STATE_EVERY", 0)
    broken = Told(tmp_path / "broken", stop_at=8, stop=interrupt)
    with pytest.raises(KeyboardInterrupt):
        _rtmdet_training.fit(narrow(), samples(), broken)
    state = broken.folder / "mmengine" / "state.pth"
    context, _ = first_weights(str(state), tmp_path / "run")
    assert context.origins == [f"file:{file_sha256(state)[:12]}"]
    assert context.warnings == []


def test_weights_of_coco_are_those_that_were_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(socket, "socket", refuse)
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    path = published(tmp_path).rename(cache / "rtmdet-ins_tiny_8xb32-300e_coco_20221130_151727-ec670f7e.pth")
    context, weights = first_weights("coco", tmp_path / "run")
    assert context.origins == ["coco"]
    given = torch.load(path, weights_only=True)["state_dict"]
    torch.testing.assert_close(weights["backbone.stem.0.conv.weight"], given["backbone.stem.0.conv.weight"])


def test_without_a_network_training_starts_at_random_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(socket, "socket", refuse)
    context, _ = first_weights("coco", tmp_path / "run")
    assert context.origins == ["random"]
    assert "could not be had" in context.warnings[0]


def refuse(*args: object, **kwargs: object) -> None:
    raise OSError("no network here")


# Prediction


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("trained") / "checkpoint.safetensors"
    network = excited(narrow())
    network.register_state_dict_post_hook(_rtmdet_training._separate)
    _weights.save_checkpoint(path, network)
    return path


def load(path: Path, mode: str) -> Any:
    method = find_method("rtmdet")
    segmenter = method.build({"train": {"rtmdet": NARROW}, "infer": {"mode": mode}, "decode": {}})
    segmenter.load({"rtmdet": path}, "cpu")
    return segmenter


@pytest.mark.parametrize("mode", ["windows", "resized"])
@pytest.mark.parametrize("shape", [(1, 1), (3, 70), (64, 64), (130, 90)])
def test_predicts_images_of_any_shape_offline(
    mode: str, shape: tuple[int, int], trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "socket", refuse)
    segmenter = load(trained, mode)
    labels = segmenter.predict(noise(*shape))
    assert (labels.shape, labels.dtype) == (shape, np.int32)
    assert set(segmenter.stages) == {"rtmdet", "post-processing"}


@pytest.mark.parametrize(("mode", "views"), [("windows", 8), ("resized", 1)])
def test_infer_keeps_what_every_threshold_needs(mode: str, views: int, trained: Path) -> None:
    segmenter, image = load(trained, mode), noise(130, 90)
    raw = segmenter.infer(image)
    assert len(raw.windows) == views
    for found, view in zip(raw.windows, _rtmdet_network.VIEWS[mode](image, 64), strict=True):
        everything = _rtmdet_network.detect(segmenter._network, view, 0.0)
        assert len(everything.scores) == 8 * 8 + 4 * 4 + 2 * 2
        kept = everything.scores > rtmdet.LOWEST_SCORE
        assert torch.equal(found.scores, everything.scores[kept])
        assert torch.equal(found.boxes, everything.boxes[kept])


def test_a_resized_image_keeps_its_aspect() -> None:
    ((pixels, window, scale),) = _rtmdet_network.view_resized(np.full((50, 200, 3), 90, np.uint8), 64)
    assert window == (slice(0, 50), slice(0, 200))
    assert (pixels[:16] == 90).all()
    assert not pixels[16:].any()
    assert scale == (0.32, 0.32)
