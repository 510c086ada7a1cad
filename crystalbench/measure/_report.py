"""The report: one page that opens from a file, without a network."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from numpy.typing import NDArray

from crystalbench.evaluation import mean_and_std
from crystalbench.measure._measured import BORDER_COLOUR, INSIDE_COLOUR
from crystalbench.measure._summary import ImageSummary

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from crystalbench.measure._run import Measurement

Unit = Literal["px", "um"]

_TEMPLATE = "_report.html"
_BINS_PER_OCTAVE = 4
_ROUNDING = 1e-9
_BLUE, _ORANGE, _GREY = "#0b63b5", "#c44e00", "#555"
_UNITS = {"px": "px", "um": "µm"}


def report(measurement: Measurement) -> str:
    """Return the page of a measurement: what was measured by what, sizes and their distribution, and every image."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "grade": grade, "address": quote}
    good = [summary for summary, _ in measurement.good]
    figures = [_size_figure(measurement), _image_figure(measurement)]
    return environment.get_template(_TEMPLATE).render(
        measurement=measurement,
        record=measurement.model.record,
        title=measurement.model.method.info.title,
        units=_UNITS,
        totals=[_totals(good, unit) for unit in _units(good)],
        n_crystals=sum(summary.n_crystals or 0 for summary in good),
        n_cut=sum(summary.n_touching_border or 0 for summary in good),
        g=[_mean(good, f"astm_g_{procedure}") for procedure in ("planimetric", "intercept")],
        figures=[_html(figure, place) for place, figure in enumerate(figures) if figure is not None],
        script=_plotly(),
        colours=[f"rgb{colour}" for colour in (INSIDE_COLOUR, BORDER_COLOUR)],
        version=version("crystalbench"),
        date=date.today().isoformat(),
    )


def number(value: float | None, digits: int = 3) -> str:
    """Return a number as people read it: at least so many digits, no exponent where it can be without."""
    if value is None:
        return "unknown"
    if value == 0:
        return "0"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{decimals}f}"


def grade(value: float | None) -> str:
    """Return a grain size number with the two decimals that it is told with."""
    return "unknown" if value is None else f"{value:.2f}"


def _units(good: Sequence[ImageSummary]) -> list[Unit]:
    """Return the units in which all images can be told, the one to show first at the head."""
    scaled = bool(good) and all(summary.um_per_px for summary in good)
    return ["um", "px"] if scaled else ["px"]


def _totals(good: Sequence[ImageSummary], unit: Unit) -> dict[str, Any]:
    names = ("acs", "acs_low", "acs_high", "d10", "d50", "d90")
    _, std = mean_and_std(_values(good, f"acs_{unit}"))
    return {"unit": unit, "std": None if math.isnan(std) else std} | {
        name: _mean(good, f"{name}_{unit}") for name in names
    }


def _mean(good: Sequence[ImageSummary], name: str) -> float | None:
    values = _values(good, name)
    return sum(values) / len(values) if values else None


def _values(good: Sequence[ImageSummary], name: str) -> list[float]:
    return [value for summary in good if (value := getattr(summary, name)) is not None]


def _size_figure(measurement: Measurement) -> Figure | None:
    """Draw how the sizes of all crystals are distributed, by number and by area."""
    unit = _units([summary for summary, _ in measurement.good])[0]
    diameters = np.array(
        [
            diameter * ((summary.um_per_px or 1.0) if unit == "um" else 1.0)
            for summary, one in measurement.good
            for diameter in one.crystals.equivalent_diameter_px
        ]
    )
    if not diameters.size:
        return None
    from plotly.graph_objects import Figure, Scatter

    edges = _edges(diameters)
    figure = Figure()
    for name, weights, colour in (("crystals", None, _BLUE), ("area", diameters**2, _ORANGE)):
        shares, _ = np.histogram(diameters, edges, weights=weights)
        figure.add_trace(
            Scatter(
                x=edges.tolist(),
                y=[*(100 * shares / shares.sum()).tolist(), 0.0],
                name=f"% of the {name}",
                mode="lines",
                line={"shape": "hv", "color": colour, "width": 2},
                fill="tozeroy",
                hovertemplate="from %{x:.3g}: %{y:.1f} %<extra></extra>",
            )
        )
    figure.update_xaxes(title=f"equivalent diameter, {_UNITS[unit]}", type="log", tickvals=_ticks(edges))
    figure.update_yaxes(title="% of all", rangemode="tozero")
    return _styled(figure, "How large the crystals are")


def _edges(diameters: NDArray[np.float64]) -> NDArray[np.float64]:
    first, last = np.floor(np.log2([diameters.min(), diameters.max()]) * _BINS_PER_OCTAVE + [-_ROUNDING, _ROUNDING])
    return np.asarray(2 ** (np.arange(first, last + 2) / _BINS_PER_OCTAVE))


def _ticks(edges: NDArray[np.float64]) -> list[float]:
    decades = range(math.floor(math.log10(edges[0])), math.ceil(math.log10(edges[-1])))
    return [step * 10.0**decade for decade in decades for step in (1, 2, 5)]


def _image_figure(measurement: Measurement) -> Figure | None:
    """Draw the ACS of each image with its interval."""
    unit = _units([summary for summary, _ in measurement.good])[0]
    shown = [summary for summary, _ in measurement.good if summary.acs_px is not None]
    if len(shown) < 2:
        return None
    from plotly.graph_objects import Figure, Scatter

    acs, low, high = (
        np.array([_size(summary, name, unit) for summary in shown]) for name in ("acs", "acs_low", "acs_high")
    )
    places = list(range(1, len(shown) + 1))
    figure = Figure()
    if measurement.within:
        figure.add_trace(
            Scatter(
                x=[x for place in places for x in (place, place, None)],
                y=[y for pair in zip(low.tolist(), high.tolist(), strict=True) for y in (*pair, None)],
                mode="lines",
                line={"color": _GREY, "width": 1},
                hoverinfo="skip",
                name=f"interval for {measurement.within.coverage:.0%} of images",
            )
        )
    figure.add_trace(
        Scatter(
            x=places,
            y=acs.tolist(),
            mode="markers",
            marker={"color": _BLUE, "size": 6},
            # Plotly reads a little HTML in texts, and names are whatever a file is called.
            text=[html.escape(summary.image) for summary in shown],
            hovertemplate="%{text}: %{y:.4g}<extra></extra>",
            name="average crystal size",
        )
    )
    figure.update_xaxes(title="image, in the order of the table")
    figure.update_yaxes(title=f"ACS, {_UNITS[unit]}", rangemode="tozero")
    return _styled(figure, "Average crystal size of each image")


def _size(summary: ImageSummary, name: str, unit: Unit) -> float:
    value = getattr(summary, f"{name}_{unit}")
    return math.nan if value is None else value


def _styled(figure: Figure, title: str) -> Figure:
    return figure.update_layout(
        title={"text": title, "x": 0, "xref": "paper", "font": {"size": 16}},
        template="plotly_white",
        height=360,
        margin={"l": 56, "r": 8, "t": 48, "b": 88},
        legend={"orientation": "h", "x": 0, "y": -0.24, "yanchor": "top"},
        font={"family": "system-ui, sans-serif", "size": 13},
    )


def _html(figure: Figure, place: int) -> str:
    config = {"displaylogo": False, "responsive": True, "displayModeBar": False}
    return str(figure.to_html(full_html=False, include_plotlyjs=False, config=config, div_id=f"figure-{place}"))


def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())
