"""The tables: CSV, and Parquet for what is long."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from crystalbench.measure._crystals import Crystals
from crystalbench.measure._measured import Measured
from crystalbench.measure._summary import ImageSummary

Columns = dict[str, list[Any]]


def crystal_columns(measured: Iterable[tuple[ImageSummary, Measured]]) -> Columns:
    """Return the table of the crystals of all images, a list a column; ``image`` and ``label`` say which one it is."""
    parts = [
        {"image": [summary.image] * len(one.crystals.label), **one.crystals.columns(summary.um_per_px)}
        for summary, one in measured
    ]
    none = Crystals.model_validate({name: [] for name in Crystals.model_fields})
    names = ["image", *none.columns(None)]
    return {name: [value for part in parts for value in part[name]] for name in names}


def image_columns(summaries: Sequence[ImageSummary]) -> Columns:
    """Return the table of the images."""
    return {name: [getattr(summary, name) for summary in summaries] for name in ImageSummary.model_fields}


def to_csv(columns: Mapping[str, Sequence[Any]]) -> bytes:
    """Return a table as CSV in UTF-8 with a header; what is unknown is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return text.getvalue().encode()


def to_parquet(columns: Mapping[str, Sequence[Any]]) -> bytes:
    """Return the table of crystals as Parquet; its columns have the same types whatever is unknown."""
    import pyarrow
    from pyarrow import parquet

    types = dict(_types())
    arrays = {name: pyarrow.array(values, types.get(name, pyarrow.float64())) for name, values in columns.items()}
    buffer = io.BytesIO()
    parquet.write_table(pyarrow.table(arrays), buffer)
    return buffer.getvalue()


def _types() -> Iterator[tuple[str, Any]]:
    import pyarrow

    yield "image", pyarrow.string()
    kinds = {"list[int]": pyarrow.int64(), "list[float]": pyarrow.float64(), "list[bool]": pyarrow.bool_()}
    for name, field in Crystals.model_fields.items():
        yield name, kinds[str(field.annotation)]
