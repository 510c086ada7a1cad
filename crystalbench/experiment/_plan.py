"""From what a user asks for to the trainings and experiments that it takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from crystalbench import _devices
from crystalbench._exceptions import ConfigurationError
from crystalbench._files import canonical_json, file_sha256, sha256
from crystalbench.config import Preset, Tree, merge, override, parse_settings, search_lists
from crystalbench.data import Dataset, Fold, Folds, Sample, Split
from crystalbench.evaluation import EVALUATOR_VERSION
from crystalbench.experiment._isolated import isolate
from crystalbench.experiment._jobs import CHECKPOINT_FILE, PlannedImage, PredictJob, TrainJob, read_training
from crystalbench.experiment._keys import isolation, key_of, prediction_base, training_key
from crystalbench.experiment._record import Record
from crystalbench.experiment._tuned import Tuned, Tuning, read_tuned, tuned_file
from crystalbench.registry import Method, choose_methods

SPLIT = "fixed"


@dataclass(frozen=True)
class Request:
    """What ``crystalbench run`` was asked to do; ``device`` and ``threads`` are resolved already.

    ``tuned`` is the file of tuned parameters, or true for the one that ``crystalbench tune`` writes; with ``nested``
    that of each fold.
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
    folds: int | None = None
    nested: bool = False
    out: Path = Path("runs")


@dataclass(frozen=True)
class Training:
    """One component to be trained; two experiments with the same ``key`` share it."""

    method: Method
    component: str
    values: Tree
    dataset: Dataset
    split: str | Fold
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
            split=self.split,
            key=self.key,
            unpickle=self.request.unpickle,
        )


@dataclass(frozen=True)
class Parts:
    """Which images train and validate (of ``trained``), which are tested, and the identity of these.

    ``training`` is that of the first two; ``sha256`` is the hash of which images train, validate and test, whatever a
    method needs of them, and that of all folds together where ``split`` is one of them.
    """

    trained: Dataset
    split: str | Fold
    val: tuple[Sample, ...]
    training: Tree
    tested: tuple[Sample, ...]
    sha256: str

    @property
    def fold(self) -> Fold | None:
        """Which fold it is, None where it is none."""
        return self.split if isinstance(self.split, Fold) else None

    @property
    def split_name(self) -> str:
        """What the split is called, or all folds together."""
        return self.split.split_name if isinstance(self.split, Fold) else self.split

    @property
    def suffix(self) -> str:
        """What a title ends with, to tell folds apart."""
        return f", {self.fold}" if self.fold else ""


@dataclass(frozen=True)
class Experiment:
    """One method with one set of parameters and one seed on one split: ends in one record.

    ``nested`` is the key of the searches that chose the parameters in each fold, None where none did.
    """

    method: Method
    values: Tree
    request: Request
    seed: int
    trainings: Mapping[str, Training]
    parts: Parts
    key: str
    tuning: Tuning | None = None
    nested: str | None = None

    @property
    def samples(self) -> tuple[Sample, ...]:
        """The images that are tested."""
        return self.parts.tested[: self.request.limit]

    @property
    def folder(self) -> Path:
        """Where record, label maps, overlays and log lie."""
        return self.request.out / self.request.dataset.name / self.method.name / self.key[:12]

    def job(self, checkpoints: Mapping[str, str], timed: bool = True) -> PredictJob:
        """Return the job for a worker; ``checkpoints`` are the sha256 of the trained components."""
        return PredictJob(
            **job_basis(self.request, self.method, self.values, self.seed),
            dataset=self.request.dataset.root,
            checkpoints=checkpoint_files(self.trainings),
            folder=self.folder.resolve(),
            images=tuple(self._planned(checkpoints)),
            timed=timed,
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


def plan(request: Request, say: Callable[[str], None]) -> list[Experiment]:
    """Return the experiments of a request, in the order in which they are to be done.

    ``say`` is told which environments are built for it.

    Raises
    ------
    ConfigurationError
        For unknown methods, keys or values, a ``--set`` that does not say which method it means, a parameter
        that the user must give, ``--train-data`` that holds images of the test or comes with ``--folds``, ``--tuned``
        without its file, ``--nested`` without folds, or an environment that cannot be built.
    SplitError
        Where the data cannot be split.
    """
    _check_nested(request)
    methods = find_request_methods(request, say)
    settings = parse_settings(request.settings, list(methods))
    found = find_parts(request)
    tuned = {
        (name, parts.split): _find_tuned(request, method, parts) for name, method in methods.items() for parts in found
    }
    experiments = []
    for seed, parts, (name, method) in product(request.seeds, found, methods.items()):
        choice = tuned[name, parts.split]
        preset = method.config.values(request.preset)
        chosen = merge(preset, choice.overrides.model_dump() if choice else {})
        values, base = (override(v, settings[name], list(method.components)) for v in (chosen, preset))
        if not _is_left_out(request, method, values):
            values = method.parameters(values)
            tuning = choice.cost if choice else None
            nested = key_of(search=choice.search, base=base) if choice and request.nested else None
            experiments.append(_experiment(request, method, values, seed, parts, tuning, nested))
    return experiments


def replan(request: Request, record: Record, say: Callable[[str], None]) -> Experiment:
    """Return the experiment of the one method and seed of ``request`` with what ``record`` says of parameters and fold.

    Raises
    ------
    ConfigurationError, SplitError
        As :func:`plan`.
    """
    (method,) = find_request_methods(request, say).values()
    folds = {parts.fold.number if parts.fold else None: parts for parts in find_parts(request)}
    parts = folds.get(record.split.fold)
    if parts is None:
        raise ConfigurationError(f"the record is of fold {record.split.fold} of {request.folds}, which there is not")
    values = method.parameters(record.parameters)
    return _experiment(request, method, values, request.seeds[0], parts, record.tuning, record.nested)


def find_request_methods(request: Request, say: Callable[[str], None]) -> dict[str, Method]:
    """Return the methods of a request by name; ``say`` is told what is left out, and which environments are built."""
    methods = _importable(choose_methods(request.methods, request.adapters), request, say)
    return isolate(methods, say) if request.isolated else methods


def _check_nested(request: Request) -> None:
    if request.nested and request.folds is None:
        raise ConfigurationError("--nested takes parameters that were tuned in each fold: add --folds K")
    if request.nested and request.tuned is not True:
        raise ConfigurationError("--nested takes a choice for each fold, which one --tuned FILE is not: leave out FILE")


def _find_tuned(request: Request, method: Method, parts: Parts) -> Tuned | None:
    """Return what a search has chosen for a method, where the request asks for that; None where it does not.

    Without a file the one is read that ``crystalbench tune`` writes; what has nothing to search needs none.

    Raises
    ------
    ConfigurationError
        Where there is no file, or it was chosen for another method, preset, data set or fold.
    """
    if request.tuned is False or (request.tuned is True and not any(search_lists(method.config.search))):
        return None
    if request.tuned is not True and request.methods != (method.name,):
        raise ConfigurationError("--tuned FILE is of one method: give one --method, or leave out FILE")
    fold = parts.fold if request.nested else None
    file = tuned_file(request.out, request.dataset.name, method.name, fold) if request.tuned is True else request.tuned
    asked = {
        "method": method.name,
        "preset": request.preset,
        "dataset": parts.trained.name,
        "dataset_sha256": identity_sha256(parts.trained),
        "split": fold.split_name if fold else SPLIT,
        **({"fold": fold.number, "split_sha256": parts.sha256} if fold else {}),
    }
    return read_tuned(file, asked, fold)


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


def find_parts(request: Request) -> list[Parts]:
    """Return which images train, validate and test: once, or in each fold."""
    if request.folds is None:
        return [_fixed_parts(request)]
    if request.train_dataset:
        raise ConfigurationError(
            "--folds trains and tests on --data alone: leave out --train-data, or --folds to test on all of --data"
        )
    dataset, folds = request.dataset, request.dataset.folds(request.folds)
    whole = sha256(canonical_json({"folds": [dataset.identity(samples) for samples in folds.folds]}))
    return [_fold_parts(dataset, folds, Fold(number, request.folds), whole) for number in range(1, request.folds + 1)]


def _fixed_parts(request: Request) -> Parts:
    dataset = request.train_dataset or request.dataset
    split = dataset.split(SPLIT)
    tested = request.dataset.samples if request.train_dataset else split.test
    if not tested:
        raise ConfigurationError(f"{request.dataset.root}: the test subset is empty")
    training = _training(dataset, split)
    if request.train_dataset:
        _refuse_leaks([*split.train, *split.val], tested)
    whole = sha256(canonical_json({**training, "test": request.dataset.identity(tested)}))
    return Parts(dataset, SPLIT, split.val, training, tuple(tested), whole)


def _fold_parts(dataset: Dataset, folds: Folds, fold: Fold, whole: str) -> Parts:
    split = folds.split(fold.number)
    return Parts(dataset, fold, split.val, _training(dataset, split), split.test, whole)


def _training(dataset: Dataset, split: Split) -> Tree:
    return {"train": dataset.identity(split.train), "val": dataset.identity(split.val)}


def _refuse_leaks(trained: Sequence[Sample], tested: Sequence[Sample]) -> None:
    known = {sample.hashes["image"] for sample in trained}
    shared = [sample.name for sample in tested if sample.hashes["image"] in known]
    if shared:
        raise ConfigurationError(
            f"--train-data trains or validates on {len(shared)} images that --data tests, such as {shared[0]}: "
            "take them out of one of the two, or leave out --train-data to train and test by one set's split"
        )


def _experiment(
    request: Request,
    method: Method,
    values: Tree,
    seed: int,
    parts: Parts,
    tuning: Tuning | None,
    nested: str | None,
) -> Experiment:
    trainings = plan_trainings(request, method, values, seed, parts)
    return Experiment(
        method=method,
        values=values,
        request=request,
        seed=seed,
        trainings=trainings,
        parts=parts,
        tuning=tuning,
        nested=nested,
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
            **({"fold": parts.fold, "nested": nested} if parts.fold else {}),
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
        trainings[name] = Training(method, name, values, parts.trained, parts.split, requires, request, seed, key)
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
        "gpus": 0.0 if request.device == "cpu" else method.info.gpus,
    }
