"""Training a network: the loop that all methods share which have none of their own."""

from __future__ import annotations

import io
import math
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import safetensors
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from crystalbench._exceptions import ConfigurationError, DataError
from crystalbench._files import write_atomic

from . import _weights
from ._parameters import ScheduleTrain

if TYPE_CHECKING:
    from crystalbench.segmenter import Context

CHECKPOINT = "checkpoint.safetensors"
"""Name of the file that a finished training leaves."""

STATE = "state.pt"
"""Name of the file that a training is resumed from."""

STATE_EVERY = 5.0
"""Least seconds between two states for resuming."""

STATE_SHARE = 0.05
"""Most of the time that writing states may take."""

VALIDATIONS = 20
"""How often, about, a training looks at the validation images."""

NO_CRYSTALS = "no training image shows a crystal; give a data set whose training split has labelled crystals"

Crop = tuple[NDArray[np.float32], NDArray[Any]]
"""One input (3 x side x side) and its target, an array of one shape for all crops of a batch."""

Place = TypeVar("Place")
Drawn = TypeVar("Drawn")
Batch = TypeVar("Batch")

Loss = Callable[[Any, Tensor], Tensor]
"""From a network's output and the targets of a batch to a scalar."""


def learning_rate(step: int, total: int, warmup: int, peak: float) -> float:
    """Return the rate of one optimizer step: linear from zero, then half a cosine to zero (section IV-B)."""
    if step < warmup:
        return peak * step / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))


class Crops(ABC):
    """Images that random crops are drawn from."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of images."""

    @abstractmethod
    def draw(self, image: int, rng: np.random.Generator) -> Crop:
        """Draw one crop of an image; all chance comes from ``rng``."""


class Objective(nn.Module, ABC):
    """A network and what it is trained to. Its whole state is kept for resuming.

    Parameters
    ----------
    network
        What is left as the checkpoint.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    @abstractmethod
    def forward(self, images: Tensor, targets: Tensor) -> Tensor:
        """Return the scalar loss of a batch: images B x 3 x side x side, targets B x ..."""

    def end_epoch(self) -> None:
        """Do what has to be done after the last batch of an epoch."""
        return


class Supervised(Objective):
    """A network whose output is compared with the targets."""

    def __init__(self, network: nn.Module, loss: Loss) -> None:
        super().__init__(network)
        self.loss = loss

    def forward(self, images: Tensor, targets: Tensor) -> Tensor:
        """Return ``loss(network(images), targets)``."""
        return self.loss(self.network(images), targets)


class Ahead:
    """Draws the crops of the next batch in threads while the network learns from this one."""

    def __init__(self) -> None:
        self.waited = 0.0
        """Seconds for which the network had to wait for a batch."""

    def batches(
        self,
        pool: ThreadPoolExecutor,
        draw: Callable[[Place], Drawn],
        places: Iterable[Sequence[Place]],
        collate: Callable[[list[Drawn]], Batch],
    ) -> Iterator[Batch]:
        """Yield what ``collate`` makes of the crops drawn at the places of each batch."""
        waiting: list[Future[Drawn]] = []
        for batch in chain(places, [()]):
            following = [pool.submit(draw, place) for place in batch]
            if waiting:
                start = time.monotonic()
                collated = collate([crop.result() for crop in waiting])
                self.waited += time.monotonic() - start
                yield collated
            waiting = following

    def print_waiting(self, elapsed: float) -> None:
        """Say how much of a training of so many seconds was waiting."""
        print(f"waiting for crops: {self.waited:.1f} of {elapsed:.1f} s ({self.waited / elapsed:.1%})", flush=True)


@dataclass
class Training:
    """One network on its way from initial weights to a checkpoint.

    Parameters
    ----------
    origin
        Where the weights started, as :meth:`crystalbench.segmenter.Context.initial_weights` has it.
    clip_norm
        Largest norm of the gradient; None for any.
    """

    component: str
    objective: Objective
    crops: Crops
    validation: Crops
    parameters: ScheduleTrain
    context: Context
    origin: str
    clip_norm: float | None = None

    def __post_init__(self) -> None:
        if not len(self.crops):
            raise DataError(NO_CRYSTALS)
        torch.set_num_threads(self.context.threads)
        objective: Any = self.objective.to(self.context.device)
        objective.to(memory_format=torch.channels_last)
        self.optimizer = _optimizer(self.objective, self.parameters)
        self.batches = math.ceil(len(self.crops) * self.parameters.crops_per_image / self.parameters.batch_size)
        self.ahead = Ahead()
        self.total = self.batches * self.parameters.epochs
        self.warmup = round(self.batches * self.parameters.warmup_epochs)

    def run(self) -> None:
        """Train what is left, leave the checkpoint, remove the state; print how long it waited for crops."""
        first = self._resume()
        self.context.initial_weights(self.origin)
        start = time.monotonic()
        due = start + STATE_EVERY
        board = SummaryWriter(str(self.context.folder / "tensorboard"), purge_step=first * self.batches)
        with board, ThreadPoolExecutor(self.context.threads) as pool:
            batches = self._batches(first, pool)
            for epoch in range(first, self.parameters.epochs):
                self._epoch(epoch, board, islice(batches, self.batches))
                board.add_scalar("waiting", self.ahead.waited / (time.monotonic() - start), (epoch + 1) * self.batches)
                if time.monotonic() > due:
                    due = self._save(epoch + 1)
        self.ahead.print_waiting(time.monotonic() - start)
        self._finish()

    def _epoch(self, epoch: int, board: SummaryWriter, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        torch.manual_seed(_torch_seed(self.context.seed, epoch))
        self.objective.train()
        for number, (images, targets) in enumerate(batches, epoch * self.batches):
            rate = learning_rate(number, self.total, self.warmup, self.parameters.lr)
            loss = self._step(images, targets, rate)
            board.add_scalar("loss/train", loss, number)
            board.add_scalar("lr", rate, number)
            self.context.report(number + 1, self.total, loss=loss, lr=rate)
        self.objective.end_epoch()
        if len(self.validation) and (epoch + 1) % max(1, self.parameters.epochs // VALIDATIONS) == 0:
            board.add_scalar("loss/val", self._validation_loss(), (epoch + 1) * self.batches)

    def _step(self, images: Tensor, targets: Tensor, rate: float) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss: Tensor = self.objective(images, targets)
        value = loss.item()
        if not math.isfinite(value):
            raise ConfigurationError(
                f"the training of {self.component} diverged (loss {value}) with train.{self.component}.lr="
                f"{self.parameters.lr:g}; set a lower one, such as {self.parameters.lr / 10:g}"
            )
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.objective.parameters(), self.clip_norm)
        self.optimizer.step()
        return value

    def _batches(self, first: int, pool: ThreadPoolExecutor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches from epoch ``first`` on."""

        def draw(place: tuple[int, int]) -> Crop:
            epoch, index = place
            rng = np.random.default_rng([self.context.seed, epoch, index])
            return self.crops.draw(index % len(self.crops), rng)

        return self.ahead.batches(pool, draw, self._order(first), self._stack)

    def _order(self, first: int) -> Iterator[list[tuple[int, int]]]:
        """Yield the epoch and the numbers of the crops of each batch."""
        count = len(self.crops) * self.parameters.crops_per_image
        for epoch in range(first, self.parameters.epochs):
            order = np.random.default_rng([self.context.seed, epoch]).permutation(count)
            yield from ([(epoch, index) for index in part.tolist()] for part in np.array_split(order, self.batches))

    def _stack(self, crops: list[Crop]) -> tuple[Tensor, Tensor]:
        images, targets = (torch.from_numpy(np.stack(parts)) for parts in zip(*crops, strict=True))
        return self._move(images.contiguous(memory_format=torch.channels_last)), self._move(targets)

    def _move(self, tensor: Tensor) -> Tensor:
        if self.context.device.startswith("cuda"):
            tensor = tensor.pin_memory()
        return tensor.to(self.context.device, non_blocking=True)

    @torch.no_grad()
    def _validation_loss(self) -> float:
        """Return the mean loss over one crop of each validation image, the same ones every time."""
        self.objective.eval()
        losses = []
        for image in range(len(self.validation)):
            crop = self.validation.draw(image, np.random.default_rng([self.context.seed, image]))
            images, targets = self._stack([crop])
            losses.append(self.objective(images, targets).item())
        return float(np.mean(losses))

    def _save(self, epoch: int) -> float:
        """Keep the state after ``epoch`` epochs; return when the next one is due."""
        start = time.monotonic()
        state = {
            "epoch": epoch,
            "origin": self.origin,
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_atomic(self.context.folder / STATE, buffer.getbuffer())
        end = time.monotonic()
        return end + max(STATE_EVERY, (end - start) / STATE_SHARE)

    def _resume(self) -> int:
        """Take up the last state, if there is one, and return the epoch to go on with."""
        state = _read_state(self.context)
        if state is None:
            return 0
        self.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])
        return int(state["epoch"])

    def _finish(self) -> None:
        path = self.context.folder / CHECKPOINT
        _weights.save_checkpoint(path, self.objective.network, self.origin)
        (self.context.folder / STATE).unlink(missing_ok=True)
        shutil.rmtree(self.context.folder / "targets", ignore_errors=True)


def resumed_origin(context: Context) -> str | None:
    """Return where the weights of a killed training started; None where it left nothing to go on from."""
    state = _read_state(context)
    return None if state is None else str(state["origin"])


def _read_state(context: Context) -> dict[str, Any] | None:
    path = context.folder / STATE
    if not path.is_file():
        return None
    # Not on the GPU, which has no room for everything twice.
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def is_finished(context: Context) -> bool:
    """Say whether the checkpoint is there: a kill may come between it and the record of the training."""
    path = context.folder / CHECKPOINT
    if not path.is_file():
        return False
    with safetensors.safe_open(path, "numpy") as file:
        context.initial_weights(file.metadata()["origin"])
    return True


def seed_weights(context: Context) -> None:
    """Fix the chance that initial weights are drawn with."""
    torch.manual_seed(_torch_seed(context.seed, 0))


def _torch_seed(seed: int, epoch: int) -> int:
    return int(np.random.default_rng([seed, epoch]).integers(2**63))


def _optimizer(objective: nn.Module, parameters: ScheduleTrain) -> torch.optim.Optimizer:
    weights = [weight for weight in objective.parameters() if weight.requires_grad]
    decay = parameters.weight_decay
    if parameters.optimizer == "sgd":
        return torch.optim.SGD(weights, lr=parameters.lr, momentum=parameters.momentum, weight_decay=decay)
    kind = torch.optim.Adam if parameters.optimizer == "adam" else torch.optim.AdamW
    return kind(weights, lr=parameters.lr, weight_decay=decay, fused=True)
