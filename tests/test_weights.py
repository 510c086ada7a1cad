"""Files of weights: what is read, what is refused, and what is said of what does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import FitContext

pytest.importorskip("torch")

import torch
from safetensors.torch import save_file
from torch import nn

import crystalbench.registry  # noqa: F401  registers crystalbench.adapters
from crystalbench import ConfigurationError, DataError
from crystalbench._files import path_sha256
from crystalbench.adapters import _weights


class Network(nn.Module):
    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4))
        self.head = nn.Linear(4, classes)


class Evil:
    """Runs code when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return (Path.touch, (self.trace,))


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".bin"])
def test_weights_are_read_whatever_the_suffix(tmp_path: Path, suffix: str, wrapped: bool) -> None:
    weights = Network().state_dict()
    file = tmp_path / f"w{suffix}"
    if suffix == ".safetensors":
        save_file(weights, file)
    else:
        torch.save({"state_dict": weights, "epoch": 3} if wrapped else weights, file)
    read = _weights.read_weights(file)
    assert read.keys() == weights.keys()
    assert all(torch.equal(read[name], value) for name, value in weights.items())


def test_a_checkpoint_of_mmengine_is_read_without_unpickling(tmp_path: Path) -> None:
    mmengine = pytest.importorskip("mmengine")
    from mmengine.logging import MessageHub

    hub = MessageHub.get_instance("test_weights")
    hub.update_scalar("train/loss", 0.5)
    meta = {"mmengine_version": mmengine.__version__, "dataset_meta": {"classes": ("crystal",)}}
    weights = Network().state_dict()
    file = tmp_path / "epoch_1.pth"
    torch.save({"meta": meta, "state_dict": weights, "message_hub": hub.state_dict()}, file)
    assert _weights.read_weights(file).keys() == weights.keys()


def test_what_needs_unpickling_is_refused_unless_the_user_says_so(tmp_path: Path) -> None:
    file, trace = tmp_path / "stranger.pth", tmp_path / "code-was-run"
    torch.save({"state_dict": Network().state_dict(), "extra": Evil(trace)}, file)
    with pytest.raises(DataError, match=r"stranger\.pth holds more than tensors.*--unpickle-weights"):
        _weights.read_weights(file)
    assert not trace.exists()
    assert len(_weights.read_weights(file, unpickle=True)) == 6
    assert trace.exists()


@pytest.mark.parametrize("content", [b"", b"not weights", b"\x10\0\0\0\0\0\0\0{broken"])
def test_a_file_that_is_none_of_weights_is_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "w.pth"
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"w\.pth"):
        _weights.read_weights(file)


def test_a_file_without_tensors_is_named(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "w.pth")
    with pytest.raises(DataError, match="holds no tensors"):
        _weights.read_weights(tmp_path / "w.pth")


def start(network: nn.Module, weights: dict[str, torch.Tensor], folder: Path) -> tuple[str, FitContext]:
    save_file(weights, folder / "start.safetensors")
    context = FitContext(folder)
    return _weights.start_from(folder / "start.safetensors", network, context), context


def test_a_start_that_fits_is_taken_and_nothing_is_said(tmp_path: Path) -> None:
    given, network = Network(), Network()
    origin, context = start(network, given.state_dict(), tmp_path)
    assert origin == f"file:{path_sha256(tmp_path / 'start.safetensors')[:12]}"
    assert context.warnings == []
    assert torch.equal(network.head.weight, given.head.weight)


def test_an_encoder_alone_is_taken_and_the_rest_is_named(tmp_path: Path) -> None:
    given, network = Network().encoder, Network()
    _, context = start(network, given.state_dict(), tmp_path)
    assert torch.equal(network.encoder[1].weight, given[1].weight)
    (warning,) = context.warnings
    assert "2 tensors of the network are not filled and start at random (head.weight, head.bias)" in warning


def test_missing_surplus_and_misshapen_tensors_are_named(tmp_path: Path) -> None:
    weights = Network(classes=5).state_dict() | {"other": torch.zeros(1)}
    del weights["encoder.0.bias"]
    network = Network()
    _, context = start(network, weights, tmp_path)
    missing, surplus, misshapen = context.warnings
    assert "3 tensors of the network" in missing
    assert "encoder.0.bias" in missing
    assert "1 tensors of the file have no place" in surplus
    assert "other" in surplus
    assert "2 tensors of the file have another shape" in misshapen
    assert torch.equal(network.encoder[0].weight, weights["encoder.0.weight"])


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="weights of another network: 0 of its 2 tensors fit the 6"):
        start(Network(), nn.Conv2d(3, 3, 3).state_dict(), tmp_path)


def test_a_start_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is no file of weights"):
        _weights.start_from(tmp_path / "none.pt", Network(), FitContext(tmp_path))
