from __future__ import annotations

import numpy as np
import pytest

import crystalbench.registry  # noqa: F401  (makes crystalbench.adapters importable)

pytest.importorskip("torch")

import torch

from crystalbench.adapters import _fusion

FIELDS = torch.tensor([[[[1.0]], [[0.0]], [[4.0]]], [[[0.0]], [[3.0]], [[-2.0]]]])


def maps(*weights: float) -> torch.Tensor:
    return torch.tensor(weights)[:, None, None]


def test_fusion_by_attention_is_a_weighted_mean_of_flow_and_foreground() -> None:
    fused = _fusion.by_attention(FIELDS, maps(0.6, 0.2))
    np.testing.assert_allclose(fused[:, 0, 0], [0.75, 0.75, 2.5], rtol=1e-6)
    np.testing.assert_allclose(_fusion.by_attention(FIELDS, maps(0.3, 0.1)), fused, rtol=1e-6)


def test_where_all_attention_vanishes_scales_count_alike() -> None:
    np.testing.assert_allclose(_fusion.by_attention(FIELDS, maps(0, 0)), FIELDS.mean(dim=0), rtol=1e-6)
    np.testing.assert_allclose(_fusion.by_attention(FIELDS, maps(1, 0)), FIELDS[0], rtol=1e-6)


def test_attention_is_per_pixel() -> None:
    fields = FIELDS.expand(2, 3, 1, 2)
    fused = _fusion.by_attention(fields, torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]]))
    np.testing.assert_array_equal(fused[..., 0], FIELDS[0, ..., 0])
    np.testing.assert_array_equal(fused[..., 1], FIELDS[1, ..., 0])


def test_average_and_maximum() -> None:
    np.testing.assert_allclose(_fusion.average(FIELDS)[:, 0, 0], [0.5, 1.5, 1.0])
    np.testing.assert_allclose(_fusion.maximum(FIELDS)[:, 0, 0], [0.0, 3.0, 4.0])


def test_in_float32_fusion_is_that_in_float64() -> None:
    rng = np.random.default_rng(0)
    fields, weights = rng.normal(scale=5, size=(4, 3, 37, 61)), rng.random((4, 37, 61))
    weights[:, :9] *= 1e-4
    weights[:, 9:12] = 0
    total = weights.sum(axis=0)
    shares = np.where(total < _fusion.VANISHING, 1 / 4, weights / np.maximum(total, _fusion.VANISHING))
    fused = _fusion.by_attention(torch.from_numpy(fields).float(), torch.from_numpy(weights).float())
    np.testing.assert_allclose(fused, (shares[:, None] * fields).sum(axis=0), atol=1e-5)
