"""Figures of the board for notebooks, drawn by matplotlib from the frames of :func:`crystalbench.load_runs`.

Each draws the rows that it is given: choose them in pandas before. Rows of one figure must be of one board, as scores
of different data, splits or training data cannot be compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import cycle
from typing import TYPE_CHECKING, Any

from crystalbench._exceptions import ConfigurationError

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from numpy.typing import NDArray
    from pandas import DataFrame

# Okabe and Ito's colours, which people with any colour vision tell apart.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000")
_BLUE, _GREY = _COLOURS[0], "#999999"
_MARKERS = "osD^vP*X"
_BOARD = ["dataset", "dataset_sha256", "class_px", "train_dataset", "split", "split_name", "split_sha256"]
_CLASSES = {"1": "1: no giant", "2": "2: giant and tiny", "3": "3: giants, none tiny"}
_COLUMNS = 3
_INCH = 2.3


def pq_by_method(board: DataFrame, ax: Axes | None = None) -> Axes:
    """Draw the mean PQ of each row with its 95 % bootstrap interval, best on top; controls are grey.

    Parameters
    ----------
    board
        Rows of ``load_runs().board``; those without a PQ are left out.
    ax
        Where to draw; new axes by default.

    Raises
    ------
    ConfigurationError
        Where there is nothing to draw, the rows are of several boards, or matplotlib is not installed.
    """
    shown = _comparable(board)
    ax = ax or _axes(height=1 + 0.3 * len(shown))
    for place, (_, row) in enumerate(shown[::-1].iterrows()):
        colour = _GREY if row["control"] else _BLUE
        ax.plot([100 * row["pq_low"], 100 * row["pq_high"]], [place, place], marker="|", color=colour)
        ax.plot(100 * row["pq"], place, "o", color=colour)
    ax.set_yticks(range(len(shown)), _names(shown)[::-1])
    ax.set(xlim=(-2, 102), xlabel="mean PQ, %, and its 95 % interval", title=_heading(shown))
    ax.grid(axis="x", alpha=0.3)
    return ax


def pq_against_latency(board: DataFrame, ax: Axes | None = None) -> Axes:
    """Draw the mean PQ of each row against the mean seconds that it takes for an image; controls are left out.

    Parameters
    ----------
    board
        Rows of ``load_runs().board``; those without a PQ or a latency are left out.
    ax
        Where to draw; new axes by default.

    Raises
    ------
    ConfigurationError
        As :func:`pq_by_method`, and where the latencies were not measured on one machine by one protocol.
    """
    measured = board[board["latency_s"].notna() & ~board["control"].astype(bool)]
    shown = _comparable(measured)
    conditions = sorted(set(shown["latency_conditions"]))
    if len(conditions) > 1:
        raise ConfigurationError(
            "latencies of different machines or protocols cannot be compared: choose rows of one, such as "
            f"board[board.latency_conditions == {conditions[0]!r}]"
        )
    ax = ax or _axes(height=4.5)
    styles = zip(cycle(_COLOURS), cycle(_MARKERS), strict=False)
    for name, x, y, (colour, marker) in zip(_names(shown), shown["latency_s"], shown["pq"], styles, strict=False):
        ax.scatter(x, 100 * y, color=colour, marker=marker, label=name)
    ax.set(xlabel="seconds an image", ylabel="mean PQ, %")
    ax.set_title(f"{_heading(shown)}\n{conditions[0]}", loc="left", fontsize="medium")
    _logarithmic(ax.set_xscale, ax.xaxis)
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize="small")
    ax.grid(alpha=0.3)
    return ax


def pq_by_class(board: DataFrame, ax: Axes | None = None) -> Axes:
    """Draw the mean PQ of each row in each of the three difficulty classes; controls are left out.

    Parameters
    ----------
    board
        Rows of ``load_runs().board``.
    ax
        Where to draw; new axes by default.

    Raises
    ------
    ConfigurationError
        As :func:`pq_by_method`.
    """
    shown = _comparable(board[~board["control"].astype(bool)])
    ax = ax or _axes(height=1.5 + 0.45 * len(shown))
    for place, (number, label) in enumerate(_CLASSES.items()):
        heights = [y + 0.26 * (1 - place) for y in range(len(shown))]
        n = shown[f"by_class.{number}.n"].max()
        pq = 100 * shown[f"by_class.{number}.pq"].astype(float)[::-1]
        ax.barh(heights, pq, 0.24, color=_COLOURS[place], label=f"{label} ({n} images)")
    ax.set_yticks(range(len(shown)), _names(shown)[::-1])
    ax.set(xlim=(0, 100), xlabel="mean PQ, %", title=_heading(shown))
    ax.legend(title="class", fontsize="small")
    ax.grid(axis="x", alpha=0.3)
    return ax


def predicted_acs(images: DataFrame) -> NDArray[np.object_]:
    """Draw the average crystal size of each prediction against that of the truth, in px; controls are left out.

    Parameters
    ----------
    images
        Rows of ``load_runs().images``. Images where a size is undefined are left out, and counted in the title.

    Returns
    -------
    array of Axes
        One for each row of the board.

    Raises
    ------
    ConfigurationError
        Where there is nothing to draw or matplotlib is not installed.
    """
    shown = images[(images["status"] == "ok") & ~images["control"].astype(bool)]
    sizes = shown[["acs_truth", "acs_prediction"]].astype(float)
    if not sizes.notna().all(axis=1).any():
        raise ConfigurationError("no images with sizes to draw: give rows of load_runs().images")
    panels = list(shown.groupby("row"))
    axes = _panels(len(panels))
    limits = 0.8 * sizes.min(axis=None), 1.25 * sizes.max(axis=None)
    for ax, (_, panel) in zip(axes, panels, strict=True):
        undefined = panel[["acs_truth", "acs_prediction"]].isna().any(axis=1).sum()
        ax.plot(limits, limits, color=_GREY, linewidth=1)
        ax.scatter(panel["acs_truth"], panel["acs_prediction"], s=12, color=_BLUE)
        ax.set(xlim=limits, ylim=limits, aspect="equal")
        _logarithmic(ax.set_xscale, ax.xaxis)
        _logarithmic(ax.set_yscale, ax.yaxis)
        ax.set_title(_names(panel)[0] + (f"\n{undefined} undefined" if undefined else ""), fontsize="small")
    axes[0].figure.supxlabel("ACS of the truth, px")
    axes[0].figure.supylabel("ACS predicted, px")
    return axes


def _comparable(board: DataFrame) -> DataFrame:
    """Return the rows that have a PQ, which are of one board."""
    shown = board[board["pq"].notna()]
    boards = shown[_BOARD].drop_duplicates()
    if not len(boards):
        raise ConfigurationError("no rows to draw: give rows of load_runs().board")
    if len(boards) > 1:
        raise ConfigurationError(
            f"the rows are of {len(boards)} boards, and cannot be compared: choose those of one, such as "
            f"board[board.dataset == {boards['dataset'].iloc[0]!r}]"
        )
    return shown


def _names(shown: DataFrame) -> list[str]:
    """Return the title of each row, with the settings that tell it from rows of the same title."""
    told = zip(shown["title"], shown["variant"], strict=True)
    return [f"{title} ({variant})" if isinstance(variant, str) and variant else title for title, variant in told]


def _heading(shown: DataFrame) -> str:
    row = shown.iloc[0]
    split = row["split"] if row["split"] == row["split_name"] else f"{row['split']} of split {row['split_name']}"
    return f"{row['dataset']}, {split}, {row['n_images']} images"


def _axes(height: float) -> Axes:
    ax: Axes = _pyplot().subplots(figsize=(7, height), layout="constrained")[1]
    return ax


def _panels(count: int) -> NDArray[np.object_]:
    """Return axes for ``count`` panels; the places left over in the last line stay empty."""
    columns = min(_COLUMNS, count)
    lines = math.ceil(count / columns)
    size = (_INCH * columns, _INCH * lines + 0.4)
    figure, axes = _pyplot().subplots(lines, columns, figsize=size, squeeze=False, layout="constrained")
    for ax in axes.flat[count:]:
        figure.delaxes(ax)
    panels: NDArray[np.object_] = axes.flat[:count]
    return panels


def _logarithmic(set_scale: Callable[[str], None], axis: Axis) -> None:
    """Make an axis logarithmic, and write its ticks as plain numbers."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    set_scale("log")
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def _pyplot() -> Any:
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ConfigurationError("figures need matplotlib: pip install 'crystalbench[notebook]'") from error
    return pyplot
