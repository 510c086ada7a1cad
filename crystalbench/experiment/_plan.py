"""From what a user asks for to the trainings and experiments that it takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from crystalbench import _devices
from crystalbench._exceptions import ConfigurationError
from crystalbench._files import canonical_json, file_sha256, sha256
from crystalbench.config import Preset, Tree, merge, override, parse_settings, search_lists
from crystalbench.data import Dataset, Sample
from crystalbench.evaluation import EVALUATOR_VERSION
from crystalbench.experiment._isolated import isolate
from crystalbench.experiment._jobs import CHECKPOINT_FILE, PlannedImage, PredictJob, TrainJob, read_training
from crystalbench.experiment._keys import isolation, key_of, prediction_base, training_key
from crystalbench.experiment._tuned import Tuned, Tuning, read_tuned, tuned_file
from crystalbench.registry import Method, choose_methods

SPLIT = "fixed"


@dataclass(frozen=True)
class Request:
    """What ``crystalbench run`` was asked to do; ``device`` and ``threads`` are resolved already.

    ``tuned`` is the file of tuned parameters, or true for the one that ``crystalbench tune`` writes.
    """

    methods: tuple[str, ...]
    dataset: Dataset
    train_dataset: Dataset | None = None
    preset: Preset = "quick"
    seeds: tuple[int, ...] = (0,)
    settings: tuple[str, ...] = ()
    adapters: tuple[str, ...] = ()
    limit: int | None = None
    device: str = "cpu"
    threads: int = _devices.cores()
    isolated: bool = False
    unpickle: bool = False
    tuned: Path | bool = False
    out: Path = Path("runs")


@dataclass(frozen=True)
class Training:
    """One component to be trained; two experiments with the same ``key`` share it."""

    method: Method
    component: str
    values: Tree
    dataset: Dataset
    requires: Mapping[str, Training]
    request: Request
    seed: int
    key: str

    @property
    def folder(self) -> Path:
        """Where checkpoint, state, log and scalars lie."""
        return self.request.out / "train" / self.component / self.key[:12]

    @property
    def is_done(self) -> bool:
        """Say whether an earlier run has finished this training."""
        return read_training(self.folder) is not None

    def job(self) -> TrainJob:
        """Return the job for a worker."""
        return TrainJob(
            **job_basis(self.request, self.method, self.values, self.seed),
            dataset=self.dataset.root,
            checkpoints=checkpoint_files(self.requires),
            folder=self.folder.resolve(),
            component=self.component,
            split=SPLIT,
            key=self.key,
            unpickle=self.request.unpickle,
        )


@dataclass(frozen=True)
class Experiment:
    """One method with one set of parameters and one seed on one split: ends in one record."""

    method: Method
    values: Tree
    request: Request
    seed: int
    trainings: Mapping[str, Training]
    samples: tuple[Sample, ...]
    split_sha256: str
    key: str
    tuning: Tuning | None = None

    @property
    def folder(self) -> Path:
        """Where record, label maps, overlays and log lie."""
        return self.request.out / self.request.dataset.name / self.method.name / self.key[:12]

    def job(self, checkpoints: Mapping[str, str]) -> PredictJob:
        """Return the job for a worker; ``checkpoints`` are the sha256 of the trained components."""
        return PredictJob(
            **job_basis(self.request, self.method, self.values, self.seed),
            dataset=self.request.dataset.root,
            checkpoints=checkpoint_files(self.trainings),
            folder=self.folder.resolve(),
            images=tuple(self._planned(checkpoints)),
        )

    def _planned(self, checkpoints: Mapping[str, str]) -> Iterator[PlannedImage]:
        request = self.request
        base = prediction_base(self.method, self.values, checkpoints, device=request.device, threads=request.threads)
        reads = self.method.reads(self.values)
        for sample in self.samples:
            hashes = dict(sample.hashes)
            truth = hashes.pop("label")
            if self.method.info.control:
                # Controls may look at the truth, so their predictions depend on it.
                hashes["label"] = truth
            hashes |= {f"read {file.name}": file_sha256(file) for file in reads(sample)}
            prediction = key_of(base=base, image=hashes)
            score = key_of(
                prediction=prediction,
                truth=truth,
                evaluator=EVALUATOR_VERSION,
                class_px=request.dataset.class_px,
            )
            yield PlannedImage(image=sample.name, prediction_key=prediction, score_key=score)


@dataclass(frozen=True)
class Parts:
    """Which images train and validate (of ``trained``), which are tested, and the identity of both."""

    trained: Dataset
    training: Tree
    tested: tuple[Sample, ...]
    test: Tree

    @property
    def sha256(self) -> str:
        """The hash of which images train, validate and test, whatever a method needs of them."""
        return sha256(canonical_json({**self.training, "test": self.test}))


def plan(request: Request, say: Callable[[str], None]) -> list[Experiment]:
    """Return the experiments of a request, in the order in which they are to be done.

    ``say`` is told which environments are built for it.

    Raises
    ------
    ConfigurationError
        For unknown methods, keys or values, a ``--set`` that does not say which method it means, a parameter
        that the user must give, ``--train-data`` that holds images of the test, ``--tuned`` without its file, or
        an environment that cannot be built.
    SplitError
        Where the data cannot be split.
    """
    methods = find_request_methods(request, say)
    settings = parse_settings(request.settings, list(methods))
    parts = find_parts(request)
    tuned = {name: find_tuned(request, method, parts.trained) for name, method in methods.items()}
    experiments = []
    for seed in request.seeds:
        for name, method in methods.items():
            found = tuned[name]
            preset = merge(method.config.values(request.preset), found.overrides.model_dump() if found else {})
            values = override(preset, settings[name], list(method.components))
            if not _is_left_out(request, method, values):
                values = method.parameters(values)
                experiments.append(_experiment(request, method, values, seed, parts, found.cost if found else None))
    return experiments


def replan(request: Request, values: Tree, tuning: Tuning | None, say: Callable[[str], None]) -> Experiment:
    """Return the experiment of the one method and seed of ``request`` with ``values`` and ``tuning`` of a record.

    Raises
    ------
    ConfigurationError, SplitError
        As :func:`plan`.
    """
    (method,) = find_request_methods(request, say).values()
    return _experiment(request, method, method.parameters(values), request.seeds[0], find_parts(request), tuning)


def find_request_methods(request: Request, say: Callable[[str], None]) -> dict[str, Method]:
    """Return the methods of a request by name; ``say`` is told what is left out, and which environments are built."""
    methods = _importable(choose_methods(request.methods, request.adapters), request, say)
    return isolate(methods, say) if request.isolated else methods


def find_tuned(request: Request, method: Method, dataset: Dataset) -> Tuned | None:
    """Return what a search has chosen for a method, where the request asks for that; None where it does not.

    Without a file the one is read that ``crystalbench tune`` writes; what has nothing to search needs none.

    Raises
    ------
    ConfigurationError
        Where there is no file, or it was chosen for another method, preset or data set.
    """
    if request.tuned is False or (request.tuned is True and not any(search_lists(method.config.search))):
        return None
    if request.tuned is not True and request.methods != (method.name,):
        raise ConfigurationError("--tuned FILE is of one method: give one --method, or leave out FILE")
    file = tuned_file(request.out, request.dataset.name, method.name) if request.tuned is True else request.tuned
    return read_tuned(file, method.name, request.preset, dataset.name, identity_sha256(dataset))


def _importable(methods: dict[str, Method], request: Request, say: Callable[[str], None]) -> dict[str, Method]:
    """Return ``methods`` without what ``all`` found in other packages and cannot be imported."""
    broken = set()
    for name, method in methods.items():
        if method.is_of_a_package and name not in request.methods:
            try:
                _ = method.segmenter_class
            except ConfigurationError as error:
                say(f"{name} is left out: {error}")
                broken.add(name)
    return {name: method for name, method in methods.items() if name not in broken}


def _is_left_out(request: Request, method: Method, values: Tree) -> bool:
    """Say whether ``all`` leaves a method out: one that lacks a parameter that the user must give."""
    lacking = method.config.unset(values)
    if lacking and method.name in request.methods:
        raise ConfigurationError(f"{method.name} needs {lacking[0]}: add --set {method.name}.{lacking[0]}=VALUE")
    return bool(lacking)


def find_parts(request: Request) -> Parts:
    """Return which images train, validate and test."""
    dataset = request.train_dataset or request.dataset
    split = dataset.split(SPLIT)
    tested = request.dataset.samples if request.train_dataset else split.test
    if not tested:
        raise ConfigurationError(f"{request.dataset.root}: the test subset is empty")
    training = {"train": dataset.identity(split.train), "val": dataset.identity(split.val)}
    if request.train_dataset:
        _refuse_leaks([*split.train, *split.val], tested)
    return Parts(dataset, training, tuple(tested), request.dataset.identity(tested))


def _refuse_leaks(trained: Sequence[Sample], tested: Sequence[Sample]) -> None:
    known = {sample.hashes["image"] for sample in trained}
    shared = [sample.name for sample in tested if sample.hashes["image"] in known]
    if shared:
        raise ConfigurationError(
            f"--train-data trains or validates on {len(shared)} images that --data tests, such as {shared[0]}: "
            "take them out of one of the two, or leave out --train-data to train and test by one set's split"
        )


def _experiment(
    request: Request, method: Method, values: Tree, seed: int, parts: Parts, tuning: Tuning | None
) -> Experiment:
    trainings = plan_trainings(request, method, values, seed, parts)
    return Experiment(
        method=method,
        values=values,
        request=request,
        seed=seed,
        trainings=trainings,
        samples=parts.tested[: request.limit],
        split_sha256=parts.sha256,
        tuning=tuning,
        key=key_of(
            method=method.name,
            class_name=method.config.class_name,
            preset=request.preset,
            trainings={name: training.key for name, training in trainings.items()},
            values=values,
            split=parts.sha256,
            train_dataset=request.train_dataset.name if request.train_dataset else None,
            seed=seed,
            device=request.device.split(":")[0],
            threads=request.threads,
            limit=request.limit,
            **isolation(method),
        ),
    )


def plan_trainings(request: Request, method: Method, values: Tree, seed: int, parts: Parts) -> dict[str, Training]:
    trainings: dict[str, Training] = {}
    for name, component in method.components.items():
        requires = {required: trainings[required] for required in component.requires}
        key = training_key(
            method,
            name,
            values,
            parts.training,
            seed=seed,
            device=request.device,
            threads=request.threads,
            requires={required: training.key for required, training in requires.items()},
        )
        trainings[name] = Training(method, name, values, parts.trained, requires, request, seed, key)
    return trainings


def identity_sha256(dataset: Dataset) -> str:
    """Return the hash of what identifies the images of a data set."""
    return sha256(canonical_json(dataset.identity(dataset.samples)))


def checkpoint_files(trainings: Mapping[str, Training]) -> dict[str, Path]:
    """Return the checkpoint of each trained component."""
    return {name: training.folder.resolve() / CHECKPOINT_FILE for name, training in trainings.items()}


def job_basis(request: Request, method: Method, values: Tree, seed: int) -> Tree:
    """Return what all jobs are told."""
    return {
        "method": method.name,
        "adapters": request.adapters,
        "values": values,
        "seed": seed,
        "device": request.device,
        "threads": request.threads,
    }
