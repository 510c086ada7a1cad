"""Figures of a board and of a row, as plotly draws them.

Colours of axes and text are the page's, so that they follow its theme. A trace of one row says which in its
``legendgroup``: the page shows and hides it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from crystalbench.leaderboard import _cells
from crystalbench.leaderboard._html._entries import COLOURS, Entry, ImageMeans
from crystalbench.leaderboard._html._sources import Curve
from crystalbench.leaderboard._rows import Row

Figure = dict[str, Any]
"""Traces and layout, ready for JSON."""

Cost = Callable[[Row], float | None]
Floats = NDArray[np.float64]

_LONGEST_NAME = 30
_LEAST_ERROR = 0.1
"""Relative errors of less percent are drawn there: the axis is logarithmic."""
_BINS_AN_OCTAVE = 3
_GREY = "#808080"
_TRUTH = {"color": "#7f8c9b", "width": 1, "shape": "hv"}
_CLASSES = {"1": "1: no<br>giant", "2": "2: giant<br>and tiny", "3": "3: giants,<br>none tiny"}
_PQ_HOVER = "%{text}<br>PQ %{y:.1f} %<extra></extra>"


def board_figures(entries: Sequence[Entry]) -> dict[str, Figure]:
    """Return the figures of a board by name; one that there is nothing to draw in is left out."""
    drawn = {
        "intervals": intervals(entries),
        "latency": accuracy_against(
            entries,
            lambda row: row.latency_s,
            "latency of one image (s)",
            comparable=_cells.comparable_latencies([entry.row for entry in entries]),
        ),
        "parameters": accuracy_against(entries, _millions, "parameters (millions)"),
        "classes": by_class(entries),
        "lengths": by_length(entries),
        "error": quality_against_error(entries),
        "acs": predicted_against_true(entries),
        "sizes": size_distributions(entries),
    }
    return {name: _json(figure) for name, figure in drawn.items() if figure.data}


def _millions(row: Row) -> float | None:
    return row.parameters / 1e6 if row.parameters else None


def intervals(entries: Sequence[Entry]) -> go.Figure:
    """Return mean PQ with its 95 % interval, one line a row, best first."""
    shown = [entry for entry in entries if entry.row.pq is not None]
    figure = go.Figure()
    for place, entry in enumerate(shown):
        told = f"%{{text}}<br>PQ %{{x:.1f}} %<br>95 % of mean {_cells.interval(entry.row.pq_low, entry.row.pq_high)}"
        figure.add_scatter(
            x=[_percent(entry.row.pq)],
            y=[place],
            mode="markers",
            error_x=_reach(entry),
            hovertemplate=f"{told}<extra></extra>",
            **_style(entry, 11),
        )
    names = {"tickvals": list(range(len(shown))), "ticktext": [_short(entry.name) for entry in shown]}
    figure.update_xaxes(title="mean PQ (%)", range=[-2, 102])
    figure.update_yaxes(**names, autorange="reversed", showgrid=False, automargin=True, zeroline=False)
    figure.update_layout(height=70 + 30 * len(shown), margin={"l": 10})
    return figure


def _reach(entry: Entry) -> dict[str, Any] | None:
    pq, low, high = entry.row.pq, entry.row.pq_low, entry.row.pq_high
    if pq is None or low is None or high is None:
        return None
    ends = {"array": [100 * (high - pq)], "arrayminus": [100 * (pq - low)]}
    return {"type": "data", "symmetric": False, "thickness": 3, "width": 0, "color": entry.colour, **ends}


def accuracy_against(entries: Sequence[Entry], cost: Cost, title: str, *, comparable: bool = True) -> go.Figure:
    """Return mean PQ against what a method costs.

    Where costs are comparable, the ranked rows that no other beats in both are joined by a line.
    """
    shown = [entry for entry in entries if entry.row.pq is not None and not entry.row.control and cost(entry.row)]
    front = pareto_front([entry for entry in shown if entry.row.rank], cost) if comparable else []
    figure = go.Figure()
    if len(front) > 1:
        line = {"shape": "hv", "dash": "dot", "width": 2, "color": _GREY}
        x, y = [cost(entry.row) for entry in front], [_percent(entry.row.pq) for entry in front]
        figure.add_scatter(x=x, y=y, mode="lines", line=line, name="Pareto front", hoverinfo="skip")
    for entry in shown:
        figure.add_scatter(
            x=[cost(entry.row)],
            y=[_percent(entry.row.pq)],
            mode="markers",
            hovertemplate=f"%{{text}}<br>PQ %{{y:.1f}} %<br>{title}: %{{x:.3g}}<extra></extra>",
            **_style(entry, 15 if entry in front else 10),
        )
    figure.update_xaxes(title=title, **_logarithmic(cost(entry.row) for entry in shown))
    figure.update_yaxes(title="mean PQ (%)", rangemode="tozero")
    return figure


def pareto_front(entries: Sequence[Entry], cost: Cost) -> list[Entry]:
    """Return the entries of which no other has a higher PQ at the same or a lower cost, cheapest first."""
    front: list[Entry] = []
    for entry in sorted(entries, key=lambda entry: (cost(entry.row) or 0.0, -(entry.row.pq or 0.0))):
        if not front or (entry.row.pq or 0.0) > (front[-1].row.pq or 0.0):
            front.append(entry)
    return front


def by_class(entries: Sequence[Entry]) -> go.Figure:
    """Return mean PQ by difficulty class."""
    figure = go.Figure()
    places = list(range(len(_CLASSES)))
    for entry in entries:
        values = [_percent(entry.row.by_class[c].pq) for c in _CLASSES]
        if values.count(None) < len(values):
            figure.add_scatter(x=places, y=values, mode="lines+markers", hovertemplate=_PQ_HOVER, **_style(entry, 10))
    counts = {c: max((entry.row.by_class[c].n for entry in entries), default=0) for c in _CLASSES}
    ticks = [f"{name}<br>(n = {counts[c]})" for c, name in _CLASSES.items()]
    figure.update_xaxes(title="difficulty class", tickvals=places, ticktext=ticks, range=[-0.3, 2.3])
    figure.update_yaxes(title="mean PQ (%)", rangemode="tozero")
    figure.update_layout(margin={"b": 92})
    return figure


def by_length(entries: Sequence[Entry]) -> go.Figure:
    """Return the PQ of the crystals of all images together, by octaves of their length."""
    figure = go.Figure()
    for entry in entries:
        found = {int(octave): _percent(pq) for octave, pq in (entry.row.pq_by_length or {}).items()}
        if found:
            x, y = [math.log2(octave) for octave in found], list(found.values())
            figure.add_scatter(x=x, y=y, mode="lines+markers", hovertemplate=_PQ_HOVER, **_style(entry, 9))
    octaves = sorted({int(octave) for entry in entries for octave in entry.row.pq_by_length or ()})
    names = [f"{octave}-{2 * octave - 1}" for octave in octaves]
    figure.update_xaxes(title="crystal length (px)", tickvals=[math.log2(octave) for octave in octaves], ticktext=names)
    figure.update_yaxes(title="PQ of crystals (%)", rangemode="tozero")
    return figure


def quality_against_error(entries: Sequence[Entry]) -> go.Figure:
    """Return PQ against the relative error of the average crystal size, one point an image (the paper's Fig. 4)."""
    figure = go.Figure()
    for entry in entries:
        found = {n: i for n, i in entry.images.items() if not (math.isnan(i.pq) or math.isnan(i.relative_error))}
        x = [100 * image.pq for image in found.values()]
        y = [max(_LEAST_ERROR, 100 * image.relative_error) for image in found.values()]
        _add_points(figure, entry, found, x, y)
    ticks = [_LEAST_ERROR, 1, 10, 100, 1000, 10000]
    figure.update_xaxes(title="PQ of the image (%)", range=[-2, 102])
    figure.update_yaxes(
        title="relative error of ACS (%)", type="log", tickvals=ticks, ticktext=[f"{tick:g}" for tick in ticks]
    )
    return figure


def predicted_against_true(entries: Sequence[Entry]) -> go.Figure:
    """Return predicted against true average crystal size, one point an image."""
    figure = go.Figure()
    sizes: list[float] = []
    for entry in entries:
        found = {name: image for name, image in entry.images.items() if image.acs > 0 and image.acs_truth > 0}
        x, y = [image.acs_truth for image in found.values()], [image.acs for image in found.values()]
        sizes += [*x, *y]
        _add_points(figure, entry, found, x, y)
    if sizes:
        ends, line = [min(sizes), max(sizes)], {"color": _GREY, "dash": "dash", "width": 2}
        figure.add_scatter(x=ends, y=ends, mode="lines", line=line, name="equal", hoverinfo="skip")
    figure.update_xaxes(title="true ACS (px)", **_logarithmic(sizes))
    figure.update_yaxes(title="predicted ACS (px)", **_logarithmic(sizes))
    return figure


def _add_points(
    figure: go.Figure, entry: Entry, images: Mapping[str, ImageMeans], x: Sequence[float], y: Sequence[float]
) -> None:
    if images:
        style = _style(entry, 8) | {"text": [_told(entry, name, image) for name, image in images.items()]}
        figure.add_scatter(x=x, y=y, mode="markers", opacity=0.75, hovertemplate="%{text}<extra></extra>", **style)


def _told(entry: Entry, name: str, image: ImageMeans) -> str:
    sizes = f"ACS {image.acs:.1f} px, true {image.acs_truth:.1f} px, error {_cells.percent(image.relative_error)} %"
    return f"{_text(entry.name)}<br>image {_text(name)}<br>PQ {_cells.percent(image.pq)} %<br>{sizes}"


def size_distributions(entries: Sequence[Entry]) -> go.Figure:
    """Return how the equivalent diameters of the crystals of all images are distributed, and those of the truth."""
    images = {name: seeds[0] for entry in entries for name, seeds in entry.scores.items()}
    truth = _diameters(area for image in images.values() for area in image.areas_truth)
    found = {entry.index: _diameters(_predicted_areas(entry)) for entry in entries}
    figure = go.Figure()
    every = np.concatenate([truth, *found.values()])
    if not every.size:
        return figure
    steps = _steps(every)
    grey = {"fill": "tozeroy", "fillcolor": "rgba(127,140,155,.35)", "line": _TRUTH, "hoverinfo": "skip"}
    figure.add_scatter(x=steps, y=_shares(truth, steps), mode="lines", name="truth", **grey)
    for entry in entries:
        diameters = found[entry.index]
        if diameters.size:
            hover = f"%{{text}}<br>%{{y:.1f}} % of {diameters.size} crystals<extra></extra>"
            style = _style(entry, 0) | {"line": {"color": entry.colour, "width": 2, "shape": "hv"}}
            figure.add_scatter(x=steps, y=_shares(diameters, steps), mode="lines", hovertemplate=hover, **style)
    figure.update_xaxes(title="equivalent diameter (px)", **_logarithmic(every))
    figure.update_yaxes(title="share of crystals (%)", rangemode="tozero")
    return figure


def _predicted_areas(entry: Entry) -> Iterable[int]:
    return (area for seeds in entry.scores.values() for one in seeds for area in one.areas_prediction)


def _diameters(areas: Iterable[int]) -> Floats:
    diameters: Floats = 2 * np.sqrt(np.fromiter(areas, np.float64) / math.pi)
    return diameters


def _steps(diameters: Floats) -> list[float]:
    """Return the limits of bins of equal width on a logarithmic axis that hold all diameters."""
    low, high = np.log2([diameters.min(), diameters.max()]) * _BINS_AN_OCTAVE
    return [2 ** (step / _BINS_AN_OCTAVE) for step in range(math.floor(low), math.floor(high) + 2)]


def _shares(diameters: Floats, steps: Sequence[float]) -> list[float]:
    """Return what percentage of the diameters is in each bin, and 0 after the last."""
    counts, _ = np.histogram(diameters, steps)
    return [*(100 * counts / max(1, diameters.size)).tolist(), 0.0]


def curves_figure(curves: Mapping[str, Curve]) -> Figure:
    """Return the losses of trainings over their steps."""
    figure = go.Figure()
    for number, (name, points) in enumerate(curves.items()):
        steps, values = zip(*points, strict=True)
        line = {"color": COLOURS[number % len(COLOURS)], "width": 2}
        figure.add_scatter(x=steps, y=values, mode="lines", name=_text(name), line=line)
    figure.update_xaxes(title="step", rangemode="tozero")
    losses = [value for points in curves.values() for _, value in points]
    figure.update_yaxes(title="loss", type="log" if min(losses, default=0) > 0 else "linear")
    return _json(figure)


def _json(figure: go.Figure) -> Figure:
    figure.update_layout(template=go.layout.Template(), xaxis_title_font_size=13, yaxis_title_font_size=13)
    found: Figure = json.loads(figure.to_json())
    del found["layout"]["template"]
    return found


def _style(entry: Entry, size: int) -> dict[str, Any]:
    symbol = entry.symbol if entry.row.rank else f"{entry.symbol}-open"
    return {
        "name": _text(entry.name),
        "text": _text(entry.name),
        "legendgroup": str(entry.index),
        "marker": {"color": entry.colour, "symbol": symbol, "size": size},
        "line": {"color": entry.colour, "width": 2},
    }


def _logarithmic(values: Iterable[float | None]) -> dict[str, Any]:
    """Return a logarithmic axis with the ticks 1, 2, 5, 10, ...: plotly shows fewer, and leaves out digits."""
    known = [value for value in values if value]
    if not known:
        return {"type": "log"}
    exponents = range(math.floor(math.log10(min(known))), math.ceil(math.log10(max(known))) + 1)
    ticks = [step * 10.0**exponent for exponent in exponents for step in ((1, 2, 5) if len(exponents) < 5 else (1,))]
    return {"type": "log", "tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _short(name: str) -> str:
    return _text(name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…")


def _text(text: str) -> str:
    """Return text in which plotly finds no markup of its own."""
    return escape(text, quote=False)
