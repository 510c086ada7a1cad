"""The points of a search as a table, best first."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Column, Table
from rich.text import Text

from crystalbench.experiment._grid import described
from crystalbench.experiment._points import PointRecord

N_SHOWN = 20
"""How many points are shown; each has its record."""


def points_table(records: Sequence[PointRecord]) -> Table:
    """Return the best points, best first, and then those without a PQ."""
    order = sorted(records, key=lambda record: (record.status != "ok", -(record.pq or 0.0)))
    caption = f"{len(order) - N_SHOWN} more points have records alone" if len(order) > N_SHOWN else None
    right = [Column(header, justify="right") for header in ("", "PQ %", "infer s", "decode s")]
    table = Table(*right, "stage", Column("parameters", overflow="fold"), "status", caption=caption)
    for number, record in enumerate(order[:N_SHOWN], start=1):
        table.add_row(
            str(number),
            _percent(record),
            f"{record.infer_s:.3g}",
            f"{record.decode_s:.3g}",
            record.stage,
            Text(described(record.parameters)),
            Text(_status(record)),
        )
    return table


def _status(record: PointRecord) -> str:
    if record.is_pruned:
        scored = sum(image.status != "pruned" for image in record.images)
        return f"pruned after {scored} of {len(record.images)} images"
    return record.status if record.error is None else f"{record.status}: {record.error.message}"


def _percent(record: PointRecord) -> str:
    if record.pq is None:
        return "-"
    return f"{100 * record.pq:.1f}" if record.pq_std is None else f"{100 * record.pq:.1f} ± {100 * record.pq_std:.1f}"
