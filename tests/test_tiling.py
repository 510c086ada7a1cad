from __future__ import annotations

from itertools import pairwise

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
    (field,) = identity(overlap=overlap).at_scales(image, [1.0])
    np.testing.assert_allclose(field, _augmentation.normalize(image), atol=1e-5)


@pytest.mark.parametrize("value", [0, 17, 255])
def test_a_constant_stays_constant_at_every_scale(value: int) -> None:
    image = np.full((90, 150, 3), value, np.uint8)
    fields = identity().at_scales(image, [0.1, 0.5, 1.0, 1.7])
    np.testing.assert_allclose(fields, np.full((4, 3, 90, 150), (value - 128) / 64), atol=1e-5)


def test_a_ramp_stays_a_ramp_when_resized_and_tiled() -> None:
    ramp = np.broadcast_to(np.arange(240, dtype=np.uint8)[:, None], (240, 150))
    (field,) = identity().at_scales(np.repeat(ramp[..., None], 3, axis=2), [0.5]).numpy()
    expected = (np.arange(240.0) - 128) / 64
    np.testing.assert_allclose(field[0, 2:-2, 75], expected[2:-2], atol=1.1 / 64)
    assert np.ptp(field, axis=2).max() < 1e-5


def test_what_fits_the_input_is_one_pass_over_black_padding() -> None:
    network = identity()
    batches = seen(network)
    network.at_scales(noise((128, 64)), [64 / 128])
    (batch,) = batches
    assert batch.shape == (1, 3, 64, 64)
    assert (batch[..., 32:] == -2).all()


def test_tiles_of_all_scales_fill_common_batches() -> None:
    network = identity(batch_size=5)
    batches = seen(network)
    together = network.at_scales(noise((200, 200)), [0.32, 0.5, 1.0])
    assert [len(batch) for batch in batches] == [5, 5, 5, 5, 1]
    one_by_one = [network.at_scales(noise((200, 200)), [factor])[0] for factor in (0.32, 0.5, 1.0)]
    np.testing.assert_array_equal(together, torch.stack(one_by_one))


@pytest.mark.parametrize(("side", "expected"), [(64, 8), (112, 8), (224, 2), (512, 1)])
def test_batches_stay_in_the_caches_of_a_cpu(side: int, expected: int) -> None:
    network = identity(side, batch_size=8)
    batches = seen(network)
    network.at_scales(noise((8 * side, 8 * side)), [1.0])
    assert max(len(batch) for batch in batches) == expected


def test_the_network_sees_channels_last() -> None:
    network = identity()
    batches = seen(network)
    network.at_scales(noise((100, 100)), [1.0])
    assert batches[0].shape[1] == 3
    assert batches[0].is_contiguous(memory_format=torch.channels_last)


def test_first_of_several_outputs_is_taken() -> None:
    class Several(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return 2 * x, x

    image = noise((70, 70))
    network = _tiling.TiledNetwork(Several(), 64, 0.1, 4, "cpu")
    np.testing.assert_allclose(network.at_scales(image, [1.0])[0], 2 * _augmentation.normalize(image), atol=1e-5)


@pytest.mark.parametrize(
    ("length", "side", "overlap", "expected"),
    [
        (224, 224, 0.1, [0]),
        (225, 224, 0.1, [0, 1]),
        (373, 224, 0.1, [0, 149]),
        (374, 224, 0.1, [0, 75, 150]),
        (192, 64, 0.5, [0, 25, 51, 76, 102, 128]),
    ],
)
def test_tiles_are_the_librarys(length: int, side: int, overlap: float, expected: list[int]) -> None:
    assert _tiling.starts(length, side, overlap) == expected
    _, rows, _, _, _ = transforms.make_tiles(np.zeros((3, length, side)), side, tile_overlap=overlap)
    assert [start for start, _ in rows] == expected


@pytest.mark.parametrize("overlap", [0.05, 0.1, 0.37, 0.5])
@pytest.mark.parametrize("side", [32, 112, 224])
def test_neighbours_overlap_by_what_is_asked_for(side: int, overlap: float) -> None:
    for length in range(side, 12 * side, 7):
        places = _tiling.starts(length, side, overlap)
        assert (places[0], places[-1] + side) == (0, length)
        assert all(side - (after - before) >= overlap * side for before, after in pairwise(places))


@pytest.mark.parametrize(("rows", "columns"), [([0, 76], [0, 93, 186]), ([0], [0, 201]), ([0, 5, 150], [0])])
def test_average_is_the_librarys_at_the_papers_input(rows: list[int], columns: list[int]) -> None:
    grid = _tiling.Grid(rows, columns, 224)
    tiles = np.random.default_rng(0).normal(size=(len(rows) * len(columns), 3, 224, 224)).astype(np.float32)
    ends = [[[side.start, side.stop] for side in sides] for sides in zip(*grid.windows(), strict=True)]
    library = transforms.average_tiles(tiles, *ends, rows[-1] + 224, columns[-1] + 224)
    np.testing.assert_allclose(grid.join(torch.from_numpy(tiles)), library, atol=1e-5)


@pytest.mark.parametrize("side", [64, 112, 224, 320])
def test_taper_falls_towards_the_border_of_every_tile(side: int) -> None:
    mask = _tiling.taper(side)
    assert mask[side // 2] == pytest.approx(1, abs=1e-3)
    assert mask[0] < 0.1
    assert (mask == mask[::-1]).all()


def test_sides_never_vanish() -> None:
    assert _tiling.scaled_shape((3, 1000), 0.1) == (1, 100)
    assert _tiling.resize(noise((4, 9)), 1, 3).shape == (1, 3, 3)


@pytest.mark.parametrize("shape", [(40, 61), (20, 30), (9, 100)])
def test_fields_are_resized_alike_on_every_device(shape: tuple[int, int]) -> None:
    field = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 20, 30)).astype(np.float32))
    expected = torch.nn.functional.interpolate(field[None], shape, mode="bilinear")[0]
    np.testing.assert_allclose(_tiling.resize_field(field, *shape), expected, atol=1e-5)
