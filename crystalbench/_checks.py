"""The checks of the conformance suite: what each asks of a method, and why."""

from __future__ import annotations

import copy
import gc
import json
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import safetensors

from crystalbench._exceptions import UnknownNameError
from crystalbench._subject import CHECKPOINT, ODD_SIZES, Subject, hurried_clock
from crystalbench.config import PRESETS, ParameterSet, Tree, flatten, merge, search_lists
from crystalbench.data import Sample
from crystalbench.segmenter import Labels, Segmenter

BUILD_S = 5.0
"""Seconds of processor time that importing an adapter and building its presets may take."""

N_PREDICTIONS = 4
"""How many predictions are watched for memory that is not given back."""

HELD_BYTES = 2
"""Bytes a pixel and prediction that may stay held; a label map has 4, an image 3."""

RESIDENT_BYTES = 64 << 20
"""What the process as a whole may grow by, for memory that Python does not know of."""

_FRAMEWORKS = {"jax", "keras", "mxnet", "onnxruntime", "paddle", "tensorflow", "torch"}
_NO_LICENCE = {"", "unknown"}
_BUILD = """
import json, sys, time
from crystalbench.registry import find_method
from crystalbench.config import PRESETS
method = find_method(sys.argv[1], sys.argv[2:])
start = time.process_time()
for preset in PRESETS:
    method.build(method.config.values(preset))
seconds = time.process_time() - start
print(json.dumps({"seconds": seconds, "modules": sorted(sys.modules)}))
"""


class NonconformityError(AssertionError):
    """The method does not do what the check asks."""


class NotApplicableError(Exception):
    """The method has no part that the check could look at."""


@dataclass(frozen=True)
class Check:
    """One check. Where one of those that it ``needs`` did not pass, it says nothing and is not run."""

    function: Callable[[Subject], None]
    needs: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name that it is called by, such as ``odd-sizes``."""
        return self.function.__name__.replace("_", "-")

    @property
    def asks(self) -> str:
        """What it asks of a method and why, in one line."""
        return " ".join((self.function.__doc__ or "").split())


def parameters(subject: Subject) -> None:
    """Every value in the YAML names a parameter that the class has and can take, in presets, search and check.

    A run must not fail after hours at a key that was misspelt.
    """
    method = subject.method
    for preset in PRESETS:
        method.preset(preset)
    method.parameters(method.config.tiny_values())
    for values in _searched(method.config.search):
        method.parameters(merge(method.config.values("paper"), values))
    known = dict(flatten(method.preset("quick")))
    for name in method.config.required:
        if name not in known:
            raise UnknownNameError("parameter in required", name, known)


def licence(subject: Subject) -> None:
    """A licence is named: nobody may use a method without one."""
    if subject.method.info.licence.strip().lower() in _NO_LICENCE:
        raise NonconformityError("no licence: name it in info of the YAML or of the class")


def construction(subject: Subject) -> None:
    """Building is cheap: no framework is imported and little time is spent, since every verb builds every method."""
    command = [sys.executable, "-P", "-c", _BUILD, subject.method.name, *subject.adapters]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise NonconformityError(
            f"cannot be built in a process of its own: {(done.stderr.strip() or 'no message')[-500:]}"
        )
    told = json.loads(done.stdout.splitlines()[-1])
    if heavy := _FRAMEWORKS & set(told["modules"]):
        raise NonconformityError(f"building imports {', '.join(sorted(heavy))}: import it inside fit() and load()")
    if told["seconds"] > BUILD_S:
        raise NonconformityError(f"building takes {told['seconds']:.1f} s of processor time, more than {BUILD_S:g} s")


def training(subject: Subject) -> None:
    """Each component leaves a checkpoint in safetensors and reports its steps; others read them."""
    _needs_components(subject)
    for name, steps in subject.trained.steps.items():
        file = subject.trained.checkpoints[name]
        if not file.is_file():
            raise NonconformityError(f"fit({name!r}) leaves no {CHECKPOINT} in context.folder")
        with safetensors.safe_open(file, "numpy"):
            pass
        if not steps or steps[-1][0] != steps[-1][1]:
            last = f"says {steps[-1][0]} of {steps[-1][1]}" if steps else "is missing"
            raise NonconformityError(
                f"fit({name!r}): the last report(step, total) {last}; it must say that all is done"
            )


def labels(subject: Subject) -> None:
    """A prediction is a label map of H x W int32, 0 or more; ``details`` is JSON, as the record holds both."""
    _predict(subject.segmenter, subject.micrograph)
    json.dumps(subject.segmenter.details, allow_nan=False)


def determinism(subject: Subject) -> None:
    """Same seed and threads, same bits: the checkpoint of a second training, and labels whatever came before."""
    again = subject.train("again")
    for name, file in again.checkpoints.items():
        if file.read_bytes() != subject.trained.checkpoints[name].read_bytes():
            raise NonconformityError(f"a second training of {name} with the same seed leaves another checkpoint")
    segmenter, sample = subject.load(again.checkpoints), subject.micrograph
    first = _answer(subject.segmenter, sample)
    _same(first, _answer(segmenter, sample), "a second object answers otherwise to the same image")
    _predict(segmenter, subject.noise)
    _same(first, _answer(segmenter, sample), "after another image, the answer to the same image is another")


def save_and_load(subject: Subject) -> None:
    """The checkpoints alone bring back what was trained: a model is moved and published without its folder."""
    _needs_components(subject)
    moved: dict[str, Path] = {}
    for name, file in subject.trained.checkpoints.items():
        moved[name] = subject.folder / "moved" / name / CHECKPOINT
        moved[name].parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, moved[name])
    trained = subject.trained.segmenter
    trained.load(subject.trained.checkpoints, "cpu")
    expected = _answer(trained, subject.micrograph)
    found = _answer(subject.load(moved), subject.micrograph)
    _same(expected, found, "an object that loads the checkpoints answers otherwise than the one that trained them")


def resume(subject: Subject) -> None:
    """A training that is interrupted goes on when it is called again, and ends with the same checkpoint.

    It is interrupted at its first and at its last report; a finished one that is called again keeps its checkpoint.
    """
    _needs_components(subject)
    trained = subject.trained
    for name, component in subject.method.components.items():
        folder, steps = subject.folder / "resumed" / name, trained.steps[name]
        expected = trained.checkpoints[name].read_bytes()
        with hurried_clock():
            for stop in dict.fromkeys((steps[0][0], steps[-1][0])):
                subject.fit(component, folder, trained.checkpoints, stop_at=stop)
            for what in ("interrupted and called again", "called again after its end"):
                subject.fit(component, folder, trained.checkpoints)
                if (folder / CHECKPOINT).read_bytes() != expected:
                    raise NonconformityError(f"the training of {name}, {what}, leaves another checkpoint")


def odd_sizes(subject: Subject) -> None:
    """Images of any size are segmented, from 1 px on: no user's image is a multiple of a network's stride."""
    for height, width in ODD_SIZES:
        _predict(subject.segmenter, subject.samples[f"{height}x{width}"])


def grey_and_16_bit(subject: Subject) -> None:
    """Grey micrographs of 8 and 16 bit are segmented; they arrive as three equal channels."""
    for name in ("grey", "sixteen-bit"):
        _predict(subject.segmenter, subject.samples[name])


def empty_images(subject: Subject) -> None:
    """An image without any structure, black or white, gets labels, and be they all 0."""
    for name in ("black", "white"):
        _predict(subject.segmenter, subject.samples[name])


def image_unchanged(subject: Subject) -> None:
    """The image is left as it was: the caller goes on using it."""
    _needs_predict(subject)
    image = subject.micrograph.image
    before = image.copy()
    subject.segmenter.predict(image)
    if not np.array_equal(image, before):
        raise NonconformityError("predict() changes the image that it is given: work on a copy")


def predict(subject: Subject) -> None:
    """``predict`` is ``decode`` after ``infer``: a search scores the one, a run the other."""
    segmenter, sample = _with_infer(subject), subject.micrograph
    expected = segmenter.decode(segmenter.infer(sample.image), segmenter.decode_parameters)
    _same(segmenter.predict(sample.image), expected, "predict(image) and decode(infer(image)) give different labels")


def decode(subject: Subject) -> None:
    """``decode`` looks at its arguments alone and leaves ``raw`` as it was.

    A search infers once and decodes with many parameters, in any order.
    """
    segmenter, sample = _with_infer(subject), subject.micrograph
    raw, own = segmenter.infer(sample.image), segmenter.decode_parameters
    before, first = copy.deepcopy(raw), segmenter.decode(raw, own)
    if not first.any():
        raise NonconformityError(
            "nothing is found in a micrograph, so nothing is seen: set check.decode to find something"
        )
    for other in _other_decodes(subject):
        expected = other.decode(other.infer(sample.image), other.decode_parameters)
        found = segmenter.decode(raw, other.decode_parameters)
        _same(found, expected, f"decode() overlooks the parameters that it is given: {other.decode_parameters}")
    _same(segmenter.decode(raw, own), first, "decode() gives other labels for the same raw output and parameters")
    _same(raw, before, "decode() changes raw: work on a copy")


def memory(subject: Subject) -> None:
    """Memory is given back: what a prediction leaves behind adds up over the images of a data set."""
    segmenter, sample = subject.segmenter, subject.noise
    tracemalloc.start()
    try:
        segmenter.predict_sample(sample)
        held, resident = _held(), _resident()
        for _ in range(N_PREDICTIONS):
            segmenter.predict_sample(sample)
        held, resident = _held() - held, _resident() - resident
    finally:
        tracemalloc.stop()
    allowed = HELD_BYTES * N_PREDICTIONS * sample.label.size
    for grown, limit, what in ((held, allowed, "still held"), (resident, RESIDENT_BYTES, "resident")):
        if grown > limit:
            raise NonconformityError(
                f"{N_PREDICTIONS} predictions of one image leave {grown:,} bytes {what}, over {limit:,}"
            )


CHECKS: dict[str, Check] = {
    check.name: check
    for check in (
        Check(parameters),
        Check(licence, ("parameters",)),
        Check(construction, ("parameters",)),
        Check(training, ("parameters",)),
        Check(labels, ("training",)),
        Check(determinism, ("labels",)),
        Check(save_and_load, ("determinism",)),
        Check(resume, ("determinism",)),
        Check(odd_sizes, ("labels",)),
        Check(grey_and_16_bit, ("labels",)),
        Check(empty_images, ("labels",)),
        Check(image_unchanged, ("labels",)),
        Check(predict, ("determinism",)),
        Check(decode, ("determinism",)),
        Check(memory, ("labels",)),
    )
}
"""Every check by name, in the order in which they are run."""


def _searched(search: ParameterSet) -> Iterator[Tree]:
    """Yield each single value of the grids as the tree that sets it."""
    for name, found in search_lists(search):
        for value in found:
            tree = value
            for key in reversed(name.split(".")):
                tree = {key: tree}
            yield tree


def _needs_components(subject: Subject) -> None:
    if not subject.method.components:
        raise NotApplicableError("nothing is trained")


def _needs_predict(subject: Subject) -> None:
    if type(subject.segmenter).predict_sample is not Segmenter.predict_sample:
        raise NotApplicableError("predict_sample() reads the files itself")


def _with_infer(subject: Subject) -> Segmenter:
    if type(subject.segmenter).infer is Segmenter.infer:
        raise NotApplicableError("infer() is not overridden: nothing is decoded")
    return subject.segmenter


def _predict(segmenter: Segmenter, sample: Sample) -> Labels:
    """Predict and see that the answer is a label map."""
    found: Any = segmenter.predict_sample(sample)
    what = f"for an image of {sample.shape[0]} x {sample.shape[1]} px the method returned"
    if not isinstance(found, np.ndarray):
        raise NonconformityError(f"{what} {type(found).__name__}, not an array")
    if found.dtype != np.int32:
        raise NonconformityError(f"{what} {found.dtype}, not int32")
    if found.shape != sample.shape:
        raise NonconformityError(f"{what} labels of shape {found.shape}")
    if found.min() < 0:
        raise NonconformityError(f"{what} labels below 0")
    return found


def _answer(segmenter: Segmenter, sample: Sample) -> tuple[Any, Labels]:
    """Return the raw output, where there is one, and the labels: a network of a few steps may find no crystal."""
    raw = None if type(segmenter).infer is Segmenter.infer else segmenter.infer(sample.image)
    return raw, _predict(segmenter, sample)


def _same(found: Any, expected: Any, difference: str) -> None:
    if not _alike(found, expected):
        raise NonconformityError(difference)


def _alike(one: Any, other: Any) -> bool:
    """Compare arrays, tensors, and whatever holds them, bit by bit."""
    if type(one) is not type(other):
        return False
    if hasattr(one, "__array__"):
        left, right = np.asarray(one), np.asarray(other)
        return left.shape == right.shape and left.tobytes() == right.tobytes()
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(_alike(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(_alike, one, other))
    if hasattr(one, "__dict__"):
        return _alike(vars(one), vars(other))
    return bool(one == other)


def _other_decodes(subject: Subject) -> Iterator[Segmenter]:
    """Yield the method with one decode parameter changed, as the grids of ``search`` have it."""
    config = subject.method.config
    own = subject.method.parameters(config.tiny_values())
    for values in _searched(ParameterSet(decode=config.search.decode)):
        changed = merge(own, values)
        if subject.method.parameters(changed) != own:
            other = subject.method.build(changed)
            other.load(subject.trained.checkpoints, "cpu")
            yield other


def _held() -> int:
    """Return the bytes that Python and its arrays hold, and those of the tensors that it knows of."""
    gc.collect()
    torch = sys.modules.get("torch")
    tensors = (item for item in gc.get_objects() if torch and issubclass(type(item), torch.Tensor))
    return tracemalloc.get_traced_memory()[0] + sum(int(tensor.nbytes) for tensor in tensors)


def _resident() -> int:
    return int(psutil.Process().memory_info().rss)
