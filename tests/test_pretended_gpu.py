"""What runs on a GPU, where there is none: tensors of both sides must not meet, nor come to the host in between.

That a GPU's own kernels give the same is for the tests that run on one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("cellpose")
pytest.importorskip("mmdet")

import torch
from pretended import PretendedGPU
from test_presets import fit_all, one_step
from test_queries import Small

from crystalbench import _devices, evaluate
from crystalbench.adapters import _device_decoding, _device_targets, _flow, _targets
from crystalbench.registry import find_method, find_methods

SHAPE = (60, 80)
TRAINED = [name for name, method in find_methods().items() if method.components and not method.written.required]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> PretendedGPU:
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    return PretendedGPU()


def test_a_pretended_gpu_refuses_what_a_gpu_does(gpu: PretendedGPU) -> None:
    host = torch.ones(3)
    with gpu:
        there = torch.nn.Linear(3, 3).to("cuda").weight + 1
        assert (there.device.type, there.T.device.type, there.cpu().device.type) == ("cuda", "cuda", "cpu")
        assert (there * torch.tensor(2.0)).device.type == host.to("cuda").device.type == "cuda"
        assert there[torch.tensor([0, 2])].shape == (2, 3)
        refused: list[Callable[[], object]] = [
            lambda: there + host,
            lambda: torch.stack([there[0], host]),
            lambda: host[there[0].long()],
            lambda: torch.nn.functional.linear(host, there),
            lambda: there.add_(host),
            lambda: there.numpy(),
            lambda: np.asarray(there),
        ]
        for call in refused:
            with pytest.raises((RuntimeError, TypeError), match="GPU"):
                call()
    assert gpu.copied == [(3, 3)]


def test_flow_targets_leave_it_once(gpu: PretendedGPU) -> None:
    labels = Small().label
    with gpu:
        flow = _device_targets.flow_targets_on_device(labels, "cuda")
    np.testing.assert_allclose(flow, _targets.flow_targets(labels), atol=1e-5)
    assert gpu.copied == [(2, *SHAPE)]


def test_decoding_takes_the_foreground_to_the_host_then_labels_and_flow(gpu: PretendedGPU) -> None:
    labels = Small().label
    field = np.concatenate([5 * _targets.flow_targets(labels), np.full((1, *SHAPE), 6, np.float32)])
    with gpu:
        decoded = _device_decoding.decode_on_device(field, _flow.FlowDecode(), "cuda")
    assert evaluate(labels, decoded).pq > 0.99
    assert gpu.copied == [SHAPE, SHAPE, (2, *SHAPE)]


@pytest.mark.skipif(torch.cuda.is_initialized(), reason="torch has used a GPU")
def test_a_method_that_leaves_it_alone_takes_no_memory_of_it() -> None:
    assert _devices.peak_memory("cuda") is None


@pytest.mark.parametrize("name", TRAINED)
def test_every_method_trains_and_predicts_there(name: str, gpu: PretendedGPU, tmp_path: Path) -> None:
    method = find_method(name)
    segmenter = method.build(one_step(method.config.tiny_values()))
    sample = Small()
    with gpu:
        checkpoints = fit_all(segmenter, sample, tmp_path, "cuda")
        assert bool(gpu.copied) == (name != "voronoi")
        segmenter.load(checkpoints, "cuda")
        gpu.copied.clear()
        labels = segmenter.predict_sample(sample)
    assert (labels.shape, labels.dtype) == (SHAPE, np.int32)
    if name in ("sima", "cellpose-multiscale", "cellpose-noresize"):
        assert gpu.copied == [SHAPE, SHAPE, (2, *SHAPE)]
