"""Results -> the paper's tables, each number beside the one that the paper reports."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from crystalbench.leaderboard import _cells as board_cells
from crystalbench.paper._reported import TABLE_1, TABLE_2, TABLE_3, TABLE_3_TRUTH, Reported
from crystalbench.paper._results import Result, Results
from crystalbench.paper._study import FUSIONS, METHODS, Fusion

TITLES = {
    "sima": "Cellpose+SiMA",
    "cellpose": "Cellpose original",
    "cellpose-multiscale": "Cellpose multi-scale",
    "cellpose-noresize": "Cellpose no resizing",
    "boundary": "Boundary model",
    "rtmdet": "RTMDet-Ins (tiny)",
    "maskformer": "MaskFormer",
    "oneformer": "OneFormer",
}
"""What the paper calls its methods."""

_YES = "✓"
_SETTINGS = {
    "sima": (_YES, _YES, "attention"),
    "cellpose": (_YES, "", ""),
    "cellpose-multiscale": (_YES, _YES, "average"),
}


@dataclass(frozen=True)
class Entry:
    """One number: its value in the column's unit, what the paper has in its place, and the records behind it.

    ``merit`` is what the best of its neighbours has most of; null where there is no best.
    """

    value: float | None
    std: float | None
    reported: Reported | None
    keys: tuple[str, ...]
    merit: float | None
    is_best: bool = False


@dataclass(frozen=True)
class Column:
    """A column of numbers: its name in CSV, its group's header and its own, and how a number is written.

    ``full`` is the header where groups have none.
    """

    name: str
    group: str
    header: str
    full: str
    write: Callable[[float, float | None], str]

    def text(self, number: Entry | Reported | None) -> str:
        """Write a number as the paper does; a dash where there is none."""
        if number is None:
            return board_cells.NOTHING
        value = number.value if isinstance(number, Entry) else number.mean
        return board_cells.NOTHING if value is None else self.write(value, number.std)


@dataclass(frozen=True)
class Line:
    """A line: its labels, and an entry for each column. ``is_apart`` asks for a rule above it."""

    labels: tuple[str, ...]
    entries: tuple[Entry, ...]
    is_apart: bool = False


@dataclass(frozen=True)
class Table:
    """One of the paper's tables.

    ``statement`` says what all its numbers stand on. The first ``identifying`` labels tell its lines apart; ``records``
    are the keys of the records by the name of the result that they make up.
    """

    name: str
    title: str
    statement: str
    labels: tuple[str, ...]
    identifying: int
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...]
    records: Mapping[str, tuple[str, ...]]


def tables(results: Results) -> list[Table]:
    """Return tables I, II and III."""
    return [_table_1(results), _table_2(results), _table_3(results)]


def statement(results: Results) -> str:
    """Return the data set, presets, initial weights, devices and seeds of the methods."""
    return board_cells.statement([result.row for result in results.methods.values()])


def title_of(name: str, result: Result | None) -> str:
    """Return what a method is called."""
    return TITLES.get(name) or (board_cells.plain(result.row.title) if result else name)


def ending(result: Result | None) -> str:
    """Return in brackets that a result is not there, or not as it should be; nothing where it is."""
    status = "not run" if result is None else board_cells.status(result.row)
    return "" if status == "ok" else f" ({status})"


@dataclass(frozen=True)
class _Measure:
    """What stands in a column: where a row (of the board, or its scores of one class) and the paper have it.

    ``sign`` is 1 where more is better, -1 where less is, 0 where nothing is the best.
    """

    name: str
    header: str
    field: str
    reported: str
    scale: float = 1.0
    sign: int = 0
    write: Callable[[float, float | None], str] = lambda value, std: (
        f"{value:.1f}" if std is None else f"{value:.1f} ± {std:.0f}"
    )

    def column(self, group: str = "") -> Column:
        return Column(self.name, group, self.header, self.header, self.write)

    def column_of(self, name: str, title: str) -> Column:
        """Return one of several columns with this measure."""
        return Column(name, self.header, title, f"{self.header}: {title}", self.write)

    def entry(self, result: Result | None, reported: Mapping[str, Reported], difficulty: int | None = None) -> Entry:
        """Return the number of a result, or of one of its difficulty classes; without a result the paper's alone."""
        told = reported.get(self.reported)
        if result is None:
            return Entry(None, None, told, (), None)
        scores = result.row if difficulty is None else result.row.by_class[str(difficulty)]
        value = self._scaled(getattr(scores, self.field))
        std = self._scaled(getattr(scores, f"{self.field}_std", None))
        merit = None if value is None or not self.sign or result.row.rank is None else self.sign * value
        return Entry(value, std, told, result.keys, merit)

    def _scaled(self, value: float | None) -> float | None:
        return None if value is None else self.scale * value


def _millions(value: float, std: float | None) -> str:
    return f"{value:.1f}M" if value >= 0.1 else f"{1e6 * value:.0f}"


_PQ = _Measure("pq_percent", "PQ (%) ↑", "pq", "pq", 100, 1)
_AJI = _Measure("aji_percent", "AJI (%) ↑", "aji", "aji", 100, 1)
_MAE = _Measure("mae_acs_px", "MAE ACS (px) ↓", "mae_acs", "mae_acs", 1, -1)
_MRE = _Measure("mre_acs_percent", "MRE ACS (%) ↓", "mre_acs", "mre_acs", 100, -1)
_ACS = _Measure("acs_px", "ACS (px)", "acs", "acs", 1, 1)
_ACS_TRUTH = _Measure("acs_truth_px", "ACS (px)", "acs_truth", "acs_truth")
_MODEL = (
    _Measure("parameters_millions", "# Params", "parameters", "parameters", 1e-6, write=_millions),
    _Measure("input_size_px", "Input size (px)", "input_size", "input_size", write=lambda value, std: f"{value:.0f}²"),
    _Measure("latency_s", "Latency (s)", "latency_s", "latency_s", write=lambda value, std: f"{value:.2f}"),
)
_METRICS = (_PQ, _AJI, _MAE, _MRE)


def _table_1(results: Results) -> Table:
    lines = [_line_1(fusion, results.fusions.get(fusion)) for fusion in FUSIONS]
    return Table(
        name="table1",
        title="Table I: comparison of multi-scale fusion methods",
        statement=statement(results),
        labels=("Resize factors (r₁, …, r_N)", "Multi-scale fusion method"),
        identifying=2,
        columns=(_PQ.column(), _MRE.column()),
        lines=_best_of_columns(lines),
        notes=tuple(_notes_1(results)),
        records={f"{fusion.factors} {fusion.label}": result.keys for fusion, result in results.fusions.items()},
    )


def _line_1(fusion: Fusion, result: Result | None) -> Line:
    entries = tuple(measure.entry(result, TABLE_1[fusion]) for measure in (_PQ, _MRE))
    is_apart = fusion.kind == FUSIONS[0].kind and fusion != FUSIONS[0]
    return Line((fusion.factors, fusion.label + ending(result)), entries, is_apart)


def _notes_1(results: Results) -> Iterator[str]:
    if not results.fusions:
        yield "Not computed: sima is not among the methods that were asked for."
        return
    planned = [experiment for row in results.study.fusions.values() for experiment in row]
    networks = len({experiment.trainings["cp"].key for experiment in planned})
    yield (
        f"All rows share the flow network cp ({networks} training{'s' * (networks > 1)} in all); fusion by attention "
        "has a training of its own network for each N."
    )
    yield (
        "r₁ resizes the longer side to the network's input. The paper prints (1, 1) and (1, 2 * 1, 1), read here as "
        "(r₁, 1) and (r₁, 2r₁, 1); where 2r₁ is not below 1, the scale halfway between r₁ and 1 takes its place. For "
        "N < 4 the paper gives no loss weights of the attention maps: the first N of (2, 4, 6, 8), and 1 for the "
        "background."
    )


def _table_2(results: Results) -> Table:
    names = [*METHODS, *(name for name in results.methods if name not in METHODS)]
    measured = [*((measure, "Metrics") for measure in _METRICS), *((m, "Model parameters & latency") for m in _MODEL)]
    lines = [_line_2(name, results.methods.get(name), [measure for measure, _ in measured]) for name in names]
    return Table(
        name="table2",
        title="Table II: comparison of methods",
        statement=statement(results),
        labels=("Models", "image rescaling", "multi-scale", "fusion type", "initial weights"),
        identifying=1,
        columns=tuple(measure.column(group) for measure, group in measured),
        lines=_best_of_columns(lines),
        notes=tuple(_notes_2(results)),
        records={title_of(name, result): result.keys for name, result in results.methods.items()},
    )


def _line_2(name: str, result: Result | None, measures: Sequence[_Measure]) -> Line:
    return Line(
        (title_of(name, result) + ending(result), *_settings(name, result)),
        tuple(measure.entry(result, TABLE_2.get(name, {})) for measure in measures),
    )


def _settings(name: str, result: Result | None) -> tuple[str, ...]:
    """Return image rescaling, multi-scale, fusion and initial weights; the paper's of a method that was not run."""
    if result is None:
        return (*_SETTINGS.get(name, ("", "", "")), "")
    row = result.row
    marks = (_YES if given else "" for given in (row.image_rescaling, row.multi_scale))
    return (*marks, row.settings.get("infer", {}).get("fusion") or row.fusion or "", row.weights or "none")


def _notes_2(results: Results) -> Iterator[str]:
    found = [result.row for result in results.methods.values()]
    yield (
        "Parameters and input size are those of the preset paper; the networks of quick are narrower and see smaller "
        "windows. The paper's 507.4M parameters of OneFormer are a slip of the decimal point."
    )
    conditions = sorted({row.latency_conditions for row in found if row.latency_conditions})
    yield f"Latency: {'; '.join(conditions) or 'not measured'}. The paper's: an NVIDIA TITAN RTX."
    if not board_cells.comparable_latencies(found):
        yield "Latencies of different machines or protocols are not comparable."
    for name, result in results.methods.items():
        row = result.row
        if row.n_no_prediction or row.n_undefined:
            yield (
                f"{title_of(name, result)}: no crystal found in {row.n_no_prediction} images (their ACS is left out, "
                f"their relative error is 1), none in the truth of {row.n_undefined} (left out where undefined)."
            )
        if changes := ", ".join(f"{key}={value}" for key, value in row.changes.items()):
            yield f"{title_of(name, result)}, set otherwise than by the preset: {changes}."


def _table_3(results: Results) -> Table:
    pair = {name: results.methods.get(name) for name in ("cellpose", "sima")}
    return Table(
        name="table3",
        title="Table III: PQ and average crystal size by difficulty class",
        statement=statement(results),
        labels=("Class", "Images"),
        identifying=1,
        columns=tuple(column for measure in _MEASURES_3 for column in _columns_3(measure, pair)),
        lines=tuple(_line_3(number, pair) for number in TABLE_3_TRUTH),
        notes=tuple(_notes_3(results)),
        records={TITLES[name]: result.keys for name, result in pair.items() if result},
    )


_MEASURES_3 = (_PQ, _ACS_TRUTH, _ACS, _MAE, _MRE)


def _columns_3(measure: _Measure, pair: Mapping[str, Result | None]) -> Iterator[Column]:
    if measure is _ACS_TRUTH:
        yield measure.column_of(measure.name, "ground truth")
        return
    for name, result in pair.items():
        yield measure.column_of(f"{measure.name}.{name}", TITLES[name] + ending(result))


def _line_3(number: int, pair: Mapping[str, Result | None]) -> Line:
    found = [result for result in pair.values() if result]
    # Where an image failed, its method has seen fewer.
    fullest = max(found, key=lambda result: result.row.by_class[str(number)].n, default=None)
    truth = _ACS_TRUTH.entry(fullest, {"acs_truth": TABLE_3_TRUTH[number]}, number)
    entries: list[Entry] = []
    for measure in _MEASURES_3:
        if measure is _ACS_TRUTH:
            entries.append(truth)
        else:
            both = [measure.entry(result, TABLE_3[number, name], number) for name, result in pair.items()]
            entries += _best(both if measure is not _ACS else [_nearness(entry, truth) for entry in both])
    n = fullest.row.by_class[str(number)].n if fullest else 0
    return Line((str(number), str(n)), tuple(entries))


def _nearness(entry: Entry, truth: Entry) -> Entry:
    """Return the entry of an ACS, of which the one that is nearest to the truth's is the best."""
    if entry.merit is None or entry.value is None or truth.value is None:
        return entry
    return replace(entry, merit=-abs(entry.value - truth.value))


def _notes_3(results: Results) -> Iterator[str]:
    px = results.study.request.dataset.class_px
    yield (
        f"Class 1: the longest crystal is shorter than {px} px. Of the others class 2: the shortest is less than a "
        "tenth as long as the longest; class 3: the rest. Bold: the better of the two methods, of the ACS the nearer "
        "to the truth's."
    )


def _best_of_columns(lines: Sequence[Line]) -> tuple[Line, ...]:
    columns = [_best(column) for column in zip(*(line.entries for line in lines), strict=True)]
    return tuple(
        replace(line, entries=entries) for line, entries in zip(lines, zip(*columns, strict=True), strict=True)
    )


def _best(entries: Sequence[Entry]) -> list[Entry]:
    """Return the entries with those of the highest merit marked, where there are others to be better than."""
    merits = [entry.merit for entry in entries if entry.merit is not None]
    best = max(merits) if len(merits) > 1 else None
    return [replace(entry, is_best=best is not None and entry.merit == best) for entry in entries]
