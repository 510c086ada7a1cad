"""The driver of a search: stage by stage, each training once, all its points in one pass; then the choice."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from crystalbench._exceptions import ConfigurationError, WorkerError
from crystalbench._files import canonical_json, write_json
from crystalbench.config import ParameterSet, flatten, merge, override, parse_settings, search_lists
from crystalbench.experiment._executors import Executor, Local, side_by_side
from crystalbench.experiment._grid import Choice, Stage, chosen, described, drawn, read_grid, shares
from crystalbench.experiment._plan import Parts, Request, find_parts, find_request_methods, identity_sha256
from crystalbench.experiment._points import Pass, Point, PointRecord, Search, best
from crystalbench.experiment._progress import Reporter
from crystalbench.experiment._study import Mirror, default_storage, suggest
from crystalbench.experiment._trainings import Trainer
from crystalbench.experiment._tuned import StageResult, Tuned, Tuning, tuned_file, write_tuned
from crystalbench.experiment._watch import Limits
from crystalbench.registry import Method

Sampler = Literal["grid", "tpe"]

_CLAIM_FILE = "claim"
_WAIT_S = 1.0


def plan_searches(request: Request, say: Callable[[str], None], *, prune: bool = False) -> list[Search]:
    """Return the search of each method of a request, in each fold; ``all`` leaves out what has nothing to search.

    With ``prune`` points that are significantly worse than the best are not scored to the end.

    Raises
    ------
    ConfigurationError
        As :func:`crystalbench.experiment.plan`; for several seeds, a method without anything to search, or a data set
        without validation images.
    """
    if len(request.seeds) > 1:
        raise ConfigurationError("tune takes one --seed: several seeds are for `crystalbench run --tuned`")
    methods = find_request_methods(request, say)
    isolated = [name for name, method in methods.items() if method.environment is not None]
    if prune and isolated:
        raise ConfigurationError(f"--prune is not for {isolated[0]}, whose worker has an environment without Optuna")
    settings = parse_settings(request.settings, list(methods))
    named = {name: method for name, method in methods.items() if name in request.methods}
    for name, method in named.items():
        if not any(search_lists(method.config.search)):
            raise ConfigurationError(f"{name} has nothing to search: give `search` in its YAML lists of values")
    searched = [method for method in methods.values() if any(search_lists(method.config.search))]
    found = find_parts(request)
    return [
        replace(_search(request, method, settings[method.name], parts), prune=prune)
        for method in searched
        for parts in found
    ]


def _search(request: Request, method: Method, settings: Sequence[tuple[list[str], object]], parts: Parts) -> Search:
    samples = parts.val[: request.limit]
    if not samples:
        raise ConfigurationError(
            f"{parts.trained.root}: the validation subset is empty, and it is what tune chooses by"
        )
    components = list(method.components)
    given = override({}, settings, components)
    grid = read_grid(method.config.search, components, [name for name, _ in flatten(given)])
    base = merge(method.config.values(request.preset), given)
    return Search(method, request, grid, parts, tuple(samples), base, given)


@dataclass(frozen=True)
class PlannedStage:
    """The passes of a stage, its points if all parameters went together, and the components chosen before."""

    name: str
    passes: Sequence[Pass]
    combinations: int
    before: frozenset[str]

    @property
    def trainings(self) -> int:
        """Settings of ``train`` that are tried."""
        return sum(bool(one.trainings) for one in self.passes)

    @property
    def points(self) -> list[Point]:
        """All points."""
        return [point for one in self.passes for point in one.points]

    @property
    def by_component(self) -> dict[str, int]:
        """How often each component is trained, those before aside."""
        keys = {t.key: name for one in self.passes for name, t in one.trainings.items() if name not in self.before}
        return dict(Counter(keys.values()))

    @property
    def described(self) -> str:
        """One line for people."""
        trained = ", ".join(f"{count} of {name}" for name, count in self.by_component.items())
        done = sum(len(one.read()) for one in self.passes)
        left_out = self.combinations - len(self.points)
        parts = [
            f"{self.trainings} trainings{f' ({trained})' if trained else ''}",
            f"{len(self.points)} points",
            *([f"{left_out} left out, whose parameters do not go together"] if left_out else []),
            f"{done} done",
        ]
        return ", ".join(parts)


@dataclass
class Tune:
    """One method's search. Whatever it is killed in, the same search goes on from there; several share the work.

    Parameters
    ----------
    search
        As planned.
    reporter
        Told what is being done.
    sampler
        Which settings of ``train`` are tried: those of the grid, or what Optuna's TPE asks for.
    trainings
        How many settings of ``train`` are tried in all; None: the whole grid.
    storage
        URL of the study; None: a file beside the records.
    retry
        Try again what has failed.
    limits
        What one worker may take.
    executor
        Where jobs run, and how many passes of a stage are done side by side.
    """

    search: Search
    reporter: Reporter
    sampler: Sampler = "grid"
    trainings: int | None = None
    storage: str | None = None
    retry: bool = False
    limits: Limits = field(default_factory=Limits)
    executor: Executor = field(default_factory=Local)
    _records: dict[str, dict[str, PointRecord]] = field(default_factory=dict)
    _plans: dict[bytes, Pass | ConfigurationError] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.sampler == "tpe" and self.trainings is None:
            raise ConfigurationError("--sampler tpe needs --trainings N: of the whole grid it has nothing to choose")
        self._choices = {stage.name: self._possible(stage) for stage in self.search.grid.stages}
        self._counts = self._shared_out()
        self._train = Trainer(self.reporter, self.limits, executor=self.executor)
        self._mirror = Mirror(self.search, self.storage or default_storage(self.search), self.reporter.say)

    def _shared_out(self) -> list[int]:
        sizes = [len(choices) for choices in self._choices.values()]
        return sizes if self.trainings is None else shares(sizes, self.trainings)

    def _possible(self, stage: Stage) -> list[Choice]:
        """Return the settings of a stage that go together with the base values and with each other."""
        planned = [(choice, self._planned(stage, choice, {})) for choice in stage.choices]
        found = [choice for choice, one in planned if isinstance(one, Pass)]
        if not found:
            raise ConfigurationError(f"search of {self.search.method.name}: {planned[0][1]}")
        return found

    @property
    def file(self) -> Path:
        """Where the choice is written."""
        request = self.search.request
        return tuned_file(request.out, request.dataset.name, self.search.method.name, self.search.parts.fold)

    def plan(self) -> list[PlannedStage]:
        """Return what each stage takes, as if the base values won the stages before."""
        grid, planned, before = self.search.grid, [], set[str]()
        for stage, count in zip(grid.stages, self._counts, strict=True):
            chosen_from = self._choices[stage.name]
            passes = self._passes(stage, drawn(chosen_from, count, self.search.seed), {})
            whole = count == len(chosen_from)
            tried = len(stage.choices) if whole else count
            n_points = tried * len(grid.infer) * len(grid.decode)
            planned.append(PlannedStage(stage.name, passes, n_points, frozenset(before)))
            before.add(stage.name)
        return planned

    def __call__(self) -> tuple[Tuned, list[PointRecord]]:
        """Do what is not done; write ``tuned.yaml``; return it and the records of all points.

        Raises
        ------
        ConfigurationError
            Where the storage cannot be opened.
        WorkerError
            Where no point of a stage has a PQ.
        """
        self._mirror.check()
        won: Choice = {}
        results: list[tuple[StageResult, list[Pass], list[PointRecord]]] = []
        for stage, count in zip(self.search.grid.stages, self._counts, strict=True):
            passes = self._stage(stage, count, won)
            records = [record for one in passes for record in self._records[one.key].values()]
            self._mirror.add(records)
            winner = _winner(stage, records, self.search)
            results.append((_stage_result(stage, passes, records, winner), passes, records))
            won |= {name: value for name, value in winner.parameters.items() if name.startswith("train.")}
        tuned = self._tuned({**won, **winner.parameters}, winner, results)
        write_tuned(self.file, tuned)
        return tuned, list({record.key: record for _, _, records in results for record in records}.values())

    def _stage(self, stage: Stage, count: int, won: Choice) -> list[Pass]:
        """Do all passes of a stage, or see them done by others; return them."""
        while True:
            passes = self._passes(stage, self._asked(stage, count), won)
            left = [one for one in passes if not self._is_done(one)]
            done = len(passes) - len(left)
            calls = [partial(self._claimed, one, f"{number}/{count}") for number, one in enumerate(left, done + 1)]
            # No more at once than there is room for: what is claimed here is not done by another process.
            if any(side_by_side(calls, self.executor.width, self.executor)) or self._ask(stage, count, passes):
                continue
            if not left:
                return passes
            time.sleep(_WAIT_S)

    def _passes(self, stage: Stage, choices: Iterable[Choice], won: Choice) -> list[Pass]:
        """Return the passes of settings of a stage.

        Raises
        ------
        ConfigurationError
            Where one does not go together with what earlier stages have won.
        """
        planned = [self._planned(stage, choice, won) for choice in choices]
        refused = next((one for one in planned if isinstance(one, ConfigurationError)), None)
        if refused is not None:
            raise refused
        return [one for one in planned if isinstance(one, Pass)]

    def _planned(self, stage: Stage, choice: Choice, won: Choice) -> Pass | ConfigurationError:
        key = canonical_json([stage.name, choice, won])
        if key not in self._plans:
            self._plans[key] = planned = self.search.plan(stage, choice, won)
            if self.retry and isinstance(planned, Pass):
                planned.forget_failed()
        return self._plans[key]

    def _is_done(self, one: Pass) -> bool:
        if one.key not in self._records:
            records = one.read()
            if len(records) == len(one.points):
                self._records[one.key] = records
        return one.key in self._records

    def _claimed(self, one: Pass, number: str) -> bool:
        """Do a pass, unless another process has claimed it; a claim ends with its process."""
        one.folder.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(one.folder / _CLAIM_FILE, timeout=0):
                if not self._is_done(one):
                    self._do(one, number)
        except Timeout:
            return False
        return True

    def _do(self, one: Pass, number: str) -> None:
        name = self.search.title
        self.reporter.say(f"{name}, stage {one.stage} {number}: {described(one.choice)}")
        failed = next((o for o in map(self._train, one.trainings.values()) if o.status != "ok"), None)
        if failed is None:
            with self.reporter.task(f"{name}: score {len(one.points)} points") as update:
                failed = self.executor(one.job(), update, self.limits, self.search.method.python)
        one.write(failed)
        records = one.read()
        self._records[one.key] = records
        for error in dict.fromkeys(record.error.message for record in records.values() if record.error):
            self.reporter.say(f"{name}: failed: {error} (see {one.folder})")
        self._mirror.add(records.values())

    def _asked(self, stage: Stage, count: int) -> list[Choice]:
        """Return the settings that the stage tries, as far as they are known."""
        choices = self._choices[stage.name]
        if self.sampler == "grid" or count == len(choices):
            return drawn(choices, count, self.search.seed)
        file = self._asked_file(stage, count)
        return [dict(choice) for choice in json.loads(file.read_bytes())] if file.exists() else []

    def _ask(self, stage: Stage, count: int, passes: Sequence[Pass]) -> bool:
        """Have one more setting tried, if there is one to try."""
        if len(passes) >= count:
            return False
        file = self._asked_file(stage, count)
        with FileLock(file.with_suffix(".lock")):
            asked = self._asked(stage, count)
            if len(asked) == len(passes):
                tried = [(one.choice, self._value(one)) for one in passes]
                write_json(
                    file, [*asked, suggest(self._choices[stage.name], stage.lists, tried, count, self.search.seed)]
                )
        return True

    def _asked_file(self, stage: Stage, count: int) -> Path:
        return self.search.folder / f"asked-{self.search.key[:12]}-{stage.name}-{count}.json"

    def _value(self, one: Pass) -> float | None:
        found = best(list(self._records.get(one.key, {}).values()))
        return found.pq if found else None

    def _tuned(
        self,
        won: Choice,
        winner: PointRecord,
        results: Sequence[tuple[StageResult, list[Pass], list[PointRecord]]],
    ) -> Tuned:
        search, parts, dataset = self.search, self.search.parts, self.search.parts.trained
        assert winner.pq is not None
        return Tuned(
            method=search.method.name,
            dataset=dataset.name,
            dataset_sha256=identity_sha256(dataset),
            split=parts.split_name,
            fold=parts.fold.number if parts.fold else None,
            split_sha256=parts.sha256,
            n_images=len(search.samples),
            preset=search.request.preset,
            seed=search.seed,
            sampler=self.sampler,
            search=search.how_key(sampler=self.sampler, trainings=self.trainings),
            overrides=ParameterSet.model_validate(merge(search.given, chosen({**search.grid.fixed, **won}))),
            pq=winner.pq,
            chosen_from={name: list(values) for name, values in search.grid.lists.items()},
            stages=tuple(result for result, _, _ in results),
            cost=cost([one for _, passes, _ in results for one in passes], self._records),
        )


def cost(passes: Sequence[Pass], records: dict[str, dict[str, PointRecord]]) -> Tuning:
    """Return what the passes of a search cost, from the records of their points by pass."""
    seconds = {t.key: t.seconds for one in passes for r in records[one.key].values() for t in r.trainings.values()}
    components = {training.key: name for one in passes for name, training in one.trainings.items()}
    points = {record.key: record for one in passes for record in records[one.key].values()}
    shared = {
        (one.key, canonical_json(r.values["infer"])): r.infer_s for one in passes for r in records[one.key].values()
    }
    alone = (
        sum(training.seconds for training in r.trainings.values()) + r.infer_s + r.decode_s for r in points.values()
    )
    return Tuning(
        trainings=len({one.key for one in passes if one.trainings}),
        points=len(points),
        device_s=sum(seconds.values()) + sum(shared.values()) + sum(r.decode_s for r in points.values()),
        trainings_by_component=dict(Counter(components.values())),
        device_s_point_by_point=sum(alone),
    )


def _winner(stage: Stage, records: Iterable[PointRecord], search: Search) -> PointRecord:
    found = list(records)
    winner = best(found)
    if winner is None:
        why = next((record.error.message for record in found if record.error), "PQ is undefined on every image")
        raise WorkerError(
            f"{search.method.name}: no point of stage {stage.name} can be chosen: {why}; see {search.folder}; "
            "when that is mended, the same command with --retry failed tries again"
        )
    return winner


def _stage_result(
    stage: Stage, passes: Sequence[Pass], records: Sequence[PointRecord], winner: PointRecord
) -> StageResult:
    assert winner.pq is not None
    return StageResult(
        name=stage.name,
        trainings=sum(bool(one.trainings) for one in passes),
        points=len(records),
        failed=sum(record.status != "ok" for record in records),
        pruned=sum(record.is_pruned for record in records),
        winner=winner.parameters,
        pq=winner.pq,
    )
