from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from conftest import SHARED
from pydantic import ValidationError

import crystalbench.registry  # noqa: F401  (makes crystalbench.adapters importable)
from crystalbench import Labels, Sample, evaluate, open_dataset
from crystalbench.adapters import _flow
from crystalbench.data._classes import crystal_lengths
from crystalbench.data._made import Recipe, draw_micrograph, read_recipe

pytest.importorskip("torch")
pytest.importorskip("cellpose")

from crystalbench.adapters import _decoding, _device_decoding, _fast_decoding, _targets

Decode = Callable[[_flow.Field, _flow.FlowDecode, str], Labels]

LIBRARY = _flow.FlowDecode()
LENIENT = _flow.FlowDecode(flow_threshold=0, min_size=0)


def truth_field(labels: np.ndarray) -> np.ndarray:
    """Return what a perfect flow network would say: 3 x H x W."""
    logit = np.where(labels > 0, 6.0, -6.0).astype(np.float32)
    return np.concatenate([5 * _targets.flow_targets(labels), logit[None]])


def oracle(labels: np.ndarray, parameters: _flow.FlowDecode) -> float:
    """Return the PQ of the truth's own field, decoded, with the worse backend."""
    field = truth_field(labels)
    decoded = [decode(field, parameters, "cpu") for decode in (_decoding.decode_reference, _fast_decoding.decode_fast)]
    return min(evaluate(labels, found).pq for found in decoded)


def discs(*discs: tuple[int, int, int], shape: tuple[int, int] = (60, 80)) -> np.ndarray:
    """Return a label map of discs (y, x, radius); later ones lie on top."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    labels = np.zeros(shape, np.int32)
    for number, (cy, cx, radius) in enumerate(discs, start=1):
        labels[np.hypot(y - cy, x - cx) < radius] = number
    return labels


# Resize factors


@pytest.mark.parametrize(
    ("shape", "factors", "expected"),
    [
        ((448, 300), ("input", 0.5, 0.75, 1.0), (0.25, 0.5, 0.75, 1.0)),  # 224 / 448 is not below r_2
        ((1120, 900), ("input", 0.5, 0.75, 1.0), (0.2, 0.5, 0.75, 1.0)),
        ((900, 1800, 3), ("input", 0.5, 0.75, 1.0), (224 / 1800, 0.5, 0.75, 1.0)),
        ((224, 224), ("input", 0.5, 0.75, 1.0), (0.25, 0.5, 0.75, 1.0)),  # not larger than the input
        ((1, 1), ("input", 0.5, 0.75, 1.0), (0.25, 0.5, 0.75, 1.0)),
        ((225, 10), ("input", 0.5, 0.75, 1.0), (0.25, 0.5, 0.75, 1.0)),
        ((224, 224), ("input", 0.25, 1.0), (0.125, 0.25, 1.0)),
        ((300, 300), ("input", 1.0), (224 / 300, 1.0)),
        ((300, 300), ("input",), (224 / 300,)),
        ((2000, 10), (0.1, 0.25, 1.0), (0.1, 0.25, 1.0)),
        ((1120, 900), ("input", "2*input", 1.0), (0.2, 0.4, 1.0)),
        ((224, 224), ("input", "2*input", 1.0), (0.25, 0.5, 1.0)),
        ((280, 300), ("input", "2*input", 1.0), (0.7466667, 0.8733333, 1.0)),  # 2 r_1 is not below r_3
        ((448, 300), ("input", "2*input", 1.0), (0.5, 0.75, 1.0)),
        ((448, 300), ("input", "2*input"), (0.5, 1.0)),
    ],
)
def test_resize_factors(shape: tuple[int, ...], factors: tuple, expected: tuple[float, ...]) -> None:
    parameters = _flow.MultiScale(resize_factors=factors)
    assert _flow.scale_factors(parameters, shape, 224) == pytest.approx(expected)


@pytest.mark.parametrize(
    "factors",
    [
        (),
        (1.0, 0.5),
        (0.5, 0.5),
        (0.5, "input"),
        (0.0, 1.0),
        (5.0,),
        ("output", 1.0),
        ("2*input", 1.0),
        ("input", 1.0, "2*input"),
    ],
)
def test_resize_factors_that_cannot_be(factors: tuple) -> None:
    with pytest.raises(ValidationError):
        _flow.MultiScale(resize_factors=factors)


# Decoding


@pytest.fixture(params=["fast", "reference", "device"])
def decode(request: pytest.FixtureRequest) -> Decode:
    """Every decoding; that of a GPU runs as well where there is none."""
    if request.param == "device":
        return _device_decoding.decode_on_device
    return _flow.decoder(_flow.FlowDecode(backend=request.param), "cpu")


def test_touching_crystals_come_apart_and_raw_stays_as_it_was(decode: Decode) -> None:
    labels = discs((25, 25, 14), (30, 50, 14), (12, 68, 5))
    field = truth_field(labels)
    before = field.copy()
    decoded = decode(field, LIBRARY, "cpu")
    assert decoded.dtype == np.int32
    assert evaluate(labels, decoded).pq > 0.99
    np.testing.assert_array_equal(field, before)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (3, 50), (40, 2), (37, 61)])
@pytest.mark.parametrize("logit", [-6.0, 6.0])
def test_images_of_any_size(decode: Decode, shape: tuple[int, int], logit: float) -> None:
    field = np.zeros((3, *shape), np.float32)
    field[2] = logit
    decoded = decode(field, LIBRARY, "cpu")
    assert (decoded.shape, decoded.dtype, decoded.max()) == (shape, np.int32, 0)


def test_foreground_threshold_is_on_the_scale_of_logits(decode: Decode) -> None:
    labels = discs((30, 30, 12))
    field = truth_field(labels)
    field[2, labels > 0] = 0.3
    found = [decode(field, _flow.FlowDecode(foreground_threshold=h), "cpu").max() for h in (0.25, 0.5)]
    assert found == [1, 0]


def test_small_crystals_go_on_request(decode: Decode) -> None:
    labels = discs((20, 20, 10), (20, 60, 4))
    field = truth_field(labels)
    counts = [decode(field, _flow.FlowDecode(min_size=size), "cpu").max() for size in (0, 15, 60)]
    assert counts == [2, 2, 1]


def test_quality_control_drops_what_flows_elsewhere(decode: Decode) -> None:
    labels = discs((20, 20, 12), (30, 60, 12))
    field = truth_field(labels)
    noise = np.random.default_rng(0).normal(size=field[:2].shape)
    field[:2] = np.where(labels == 2, 0.6 * field[:2] + 4 * noise, field[:2])
    strict, lenient = (decode(field, _flow.FlowDecode(flow_threshold=q), "cpu") for q in (0.4, 0))
    assert strict[labels == 2].max() == 0
    assert lenient[labels == 2].max() > 0
    assert strict[20, 20] > 0


def test_cleaning_survives_gaps_in_the_numbers() -> None:
    masks = discs((10, 10, 8), (10, 30, 8), (10, 50, 8), (40, 10, 2))
    masks[masks == 2] = 0
    cleaned = _decoding.clean(masks, 15)
    np.testing.assert_array_equal(cleaned > 0, (masks == 1) | (masks == 3))
    assert sorted(np.unique(cleaned)) == [0, 1, 2]


def test_cleaning_fills_background_holes_but_keeps_enclosed_crystals() -> None:
    masks = discs((30, 30, 20), (30, 30, 5))
    masks[30, 15] = 0
    cleaned = _decoding.clean(masks, 15)
    assert cleaned[30, 15] == cleaned[30, 12] > 0
    np.testing.assert_array_equal(cleaned == cleaned[30, 30], masks == 2)


def test_steps_cover_the_largest_crystal(decode: Decode) -> None:
    labels = np.zeros((20, 900), np.int32)
    labels[4:16, 5:895] = 1
    assert _fast_decoding.flow_steps(labels > 0) == 1024
    assert _fast_decoding.flow_steps(labels[:, :100] > 0) == 256
    assert _fast_decoding.flow_steps(labels > 1) == 256
    assert evaluate(labels, decode(truth_field(labels), LENIENT, "cpu")).pq == 1


# The oracle: the truth's own flow field, decoded


def real_samples(*names: str) -> Iterator[Sample]:
    for name in names:
        if (SHARED / "data" / name).is_dir():
            yield from open_dataset(SHARED / "data" / name).samples


def sample_name(sample: Sample) -> str:
    return sample.name


@pytest.mark.parametrize("sample", list(real_samples("imagegrains")), ids=sample_name)
def test_oracle_on_pebbles(sample: Sample) -> None:
    assert oracle(sample.label, LENIENT) >= 0.99


@pytest.mark.parametrize("sample", list(real_samples("ffc_iron"))[:2], ids=sample_name)
def test_oracle_on_parts_of_iron(sample: Sample) -> None:
    assert oracle(np.ascontiguousarray(sample.label[:300, :300]), LENIENT) >= 0.99


@pytest.mark.parametrize("name", ["tr_22-512-0", "tr_29-256-0"])
def test_paths_that_rest_beside_a_border_stay_there(decode: Decode, name: str) -> None:
    """Their crystals were one with the neighbour when paths were joined without regard to where these rest."""
    labels = next((sample.label for sample in real_samples("tbm") if sample.name == name), None)
    if labels is None:
        pytest.skip("needs shared/data/tbm")
    assert evaluate(labels, decode(truth_field(labels), LENIENT, "cpu")).pq > 0.997


@pytest.mark.parametrize("index", range(6))
def test_oracle_on_demo(index: int) -> None:
    assert oracle(draw_micrograph(read_recipe("demo"), index).label, LENIENT) >= 0.99


def test_oracle_with_the_librarys_own_thresholds() -> None:
    labels = draw_micrograph(read_recipe("demo"), 69).label
    assert oracle(labels, LIBRARY) >= 0.99


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("sample", list(real_samples("imagegrains", "ffc_iron", "tbm")), ids=sample_name)
def test_oracle_on_every_real_image(sample: Sample) -> None:
    assert oracle(sample.label, LENIENT) >= 0.99


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_oracle_on_all_of_demo() -> None:
    recipe = read_recipe("demo")
    assert min(oracle(label, LENIENT) for label in made_labels(recipe, range(recipe.images))) >= 0.99


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_oracle_on_large_images() -> None:
    """Six of refractory-like; number 242 has a crystal of 1665 px. Quality control would take an hour."""
    labels = list(made_labels(read_recipe("refractory-like"), [0, 1, 2, 17, 86, 242]))
    assert crystal_lengths(labels[-1]).max() > 1500
    assert min(oracle(label, LENIENT) for label in labels) >= 0.99


def made_labels(recipe: Recipe, indices: range | list[int]) -> Iterator[np.ndarray]:
    for index in indices:
        yield draw_micrograph(recipe, index).label
