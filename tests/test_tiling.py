from __future__ import annotations

import numpy as np
import pytest

import crystalbench.registry  # noqa: F401  (makes crystalbench.adapters importable)

pytest.importorskip("torch")
pytest.importorskip("cellpose")

import torch
from cellpose import transforms

from crystalbench.adapters import _augmentation, _tiling

SHAPES = [(1, 1), (5, 70), (64, 64), (65, 64), (100, 230), (301, 77)]


def identity(side: int = 64, batch_size: int = 4, overlap: float = 0.1) -> _tiling.TiledNetwork:
    """A network that gives back what it sees: tiles joined must be the image."""
    return _tiling.TiledNetwork(torch.nn.Identity(), side, overlap, batch_size, "cpu")


def seen(network: _tiling.TiledNetwork) -> list[torch.Tensor]:
    """Return a list that fills with the batches the network is given."""
    batches: list[torch.Tensor] = []
    network.network.register_forward_hook(lambda module, inputs, output: batches.append(inputs[0]))
    return batches


def noise(shape: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("overlap", [0.1, 0.4])
def test_tiles_of_any_field_join_to_it(shape: tuple[int, int], overlap: float) -> None:
    image = noise(shape)
    np.testing.assert_allclose(identity(overlap=overlap).predict(image), _augmentation.normalize(image), atol=1e-5)


@pytest.mark.parametrize("value", [0, 17, 255])
def test_a_constant_stays_constant_at_every_scale(value: int) -> None:
    image = np.full((90, 150, 3), value, np.uint8)
    for factor in (0.1, 0.5, 1.0, 1.7):
        field = identity().at_scale(image, factor)
        np.testing.assert_allclose(field, np.full((3, 90, 150), (value - 128) / 64), atol=1e-5)


def test_a_ramp_stays_a_ramp_when_resized_and_tiled() -> None:
    ramp = np.broadcast_to(np.arange(240, dtype=np.uint8)[:, None], (240, 150))
    field = identity().at_scale(np.repeat(ramp[..., None], 3, axis=2), 0.5)
    expected = (np.arange(240.0) - 128) / 64
    np.testing.assert_allclose(field[0, 2:-2, 75], expected[2:-2], atol=1.1 / 64)
    assert np.ptp(field, axis=2).max() < 1e-5


def test_what_fits_the_input_is_one_pass_over_black_padding() -> None:
    network = identity()
    batches = seen(network)
    network.at_scale(noise((128, 64)), 64 / 128)
    (batch,) = batches
    assert batch.shape == (1, 3, 64, 64)
    assert (batch[..., 32:] == -2).all()


def test_no_batch_is_larger_than_told() -> None:
    network = identity(batch_size=5)
    batches = seen(network)
    network.predict(noise((200, 200)))
    assert [len(batch) for batch in batches] == [5, 5, 5, 1]


def test_first_of_several_outputs_is_taken() -> None:
    class Several(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return 2 * x, x

    image = noise((70, 70))
    network = _tiling.TiledNetwork(Several(), 64, 0.1, 4, "cpu")
    np.testing.assert_allclose(network.predict(image), 2 * _augmentation.normalize(image), atol=1e-5)


def test_average_is_the_librarys_at_the_papers_input() -> None:
    image = np.zeros((3, 300, 410), np.float32)
    tiles, rows, columns, *shape = transforms.make_tiles(image, bsize=224)
    tiles = np.random.default_rng(0).normal(size=(len(rows), 3, 224, 224)).astype(np.float32)
    ours = _tiling.average_tiles(tiles, rows, columns, (shape[0], shape[1]))
    np.testing.assert_allclose(ours, transforms.average_tiles(tiles, rows, columns, *shape), atol=1e-5)


@pytest.mark.parametrize("side", [64, 112, 224, 320])
def test_taper_falls_towards_the_border_of_every_tile(side: int) -> None:
    mask = _tiling.taper(side)
    assert mask[side // 2, side // 2] == pytest.approx(1, abs=1e-3)
    assert mask[0, side // 2] < 0.1
    assert (mask == mask[::-1, ::-1]).all()


def test_sides_never_vanish() -> None:
    assert _tiling.scaled_shape((3, 1000), 0.1) == (1, 100)
    assert _tiling.resize(np.zeros((4, 9, 5), np.float32), 1, 3).shape == (1, 3, 5)
