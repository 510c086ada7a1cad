"""What ``crystalbench time`` found, as a table for people and as JSON for programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Group
from rich.text import Text

from crystalbench.experiment import Timed
from crystalbench.experiment._latency import LATENCY_FILE
from crystalbench.leaderboard._cells import NOTHING, plain, seconds
from crystalbench.leaderboard._table import titled_table

_NUMBERS = ("mean\ns", "ratio", "median", "IQR", "p95", "reference\nmean")


def ranked_latencies(timed: Sequence[Timed]) -> list[dict[str, Any]]:
    """Return one row for each experiment, fastest first, then controls, then what could not be timed.

    Seconds; ``ratio`` is that of the mean to the first row's, ``latency_reference_s`` the mean with the library's own
    post-processing, ``peak_gpu_bytes`` the most that torch held; null where unknown.
    """
    ordered = sorted(timed, key=_order)
    first = ordered[0].own.latency if ordered else None
    return [_row(one, first.mean_s if first else None) for one in ordered]


def latency_table(rows: Sequence[dict[str, Any]]) -> Group:
    """Return the rows of :func:`ranked_latencies` as a table; below it warnings and errors."""
    table = titled_table("Seconds for one image, host array in and labels out")
    table.add_column("method", overflow="fold")
    for header in _NUMBERS:
        table.add_column(header, justify="right")
    table.add_column("stages", overflow="fold")
    table.add_column("peak GPU\nMB", justify="right")
    for row in rows:
        table.add_row(*map(Text, _cells(row)), style="dim" if row["control"] else "")
    conditions = dict.fromkeys(row["conditions"] for row in rows if row["conditions"])
    remarks = [f"{_name(row)}: {remark}" for row in rows for remark in row["warnings"]]
    return Group(table, *(Text(plain(line), style="dim") for line in (*conditions, *remarks)))


def _order(timed: Timed) -> tuple[Any, ...]:
    latency = timed.own.latency
    return latency is None, timed.experiment.method.info.control, latency.mean_s if latency else 0.0


def _row(timed: Timed, first: float | None) -> dict[str, Any]:
    experiment, own = timed.experiment, timed.own
    latency, reference = own.latency, timed.reference.latency if timed.reference else None
    return {
        "method": experiment.method.name,
        "title": experiment.method.info.title,
        "control": experiment.method.info.control,
        "dataset": experiment.request.dataset.name,
        "preset": experiment.request.preset,
        "seed": experiment.seed,
        "status": own.status,
        "error": own.error.model_dump() if own.error else None,
        "latency_s": latency.mean_s if latency else None,
        "ratio": latency.mean_s / first if latency and first else None,
        "latency_median_s": latency.median_s if latency else None,
        "latency_iqr_s": latency.iqr_s if latency else None,
        "latency_p95_s": latency.p95_s if latency else None,
        "latency_reference_s": reference.mean_s if reference else None,
        "latency_stages": latency.stages if latency else None,
        "peak_gpu_bytes": latency.peak_gpu_bytes if latency else None,
        "n": latency.n if latency else 0,
        "beside": own.beside,
        "conditions": f"{latency.machine}; {latency.protocol}" if latency else None,
        "warnings": [*own.warnings, *_problems(timed)],
        "file": str(experiment.folder / LATENCY_FILE),
    }


def _problems(timed: Timed) -> list[str]:
    """Return why an experiment, or its library's own backend, could not be timed."""
    timings = {"": timed.own, "reference backend: ": timed.reference}
    return [f"{name}{t.status}: {t.error.message}" for name, t in timings.items() if t and t.error]


def _name(row: dict[str, Any]) -> str:
    return plain(row["title"]) if row["seed"] == 0 else plain(f"{row['title']}, seed {row['seed']}")


def _cells(row: dict[str, Any]) -> list[str]:
    stages = row["latency_stages"] or {}
    peak = row["peak_gpu_bytes"]
    numbers = ("latency_s", "ratio", "latency_median_s", "latency_iqr_s", "latency_p95_s", "latency_reference_s")
    return [
        _name(row),
        *(seconds(row[number]) for number in numbers),
        ", ".join(f"{name} {seconds(value)}" for name, value in stages.items()) or NOTHING,
        NOTHING if peak is None else f"{peak / 1e6:.0f}",
    ]
