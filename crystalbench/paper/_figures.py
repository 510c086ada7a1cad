"""Figures 4 to 6, drawn by matplotlib without a display."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from skimage.segmentation import find_boundaries

from crystalbench._exceptions import ConfigurationError
from crystalbench._files import write_atomic
from crystalbench.data import Sample
from crystalbench.data._classes import compact
from crystalbench.data._pictures import fitted, outlined, resized
from crystalbench.evaluation._errors import crystal_errors
from crystalbench.paper._cases import Case, zoom_window
from crystalbench.paper._scatter import Point, by_method, correlation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which people with any colour vision tell apart.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
_MARKERS = "osD^vP*X"
KINDS = {"matched": "#56B4E9", "merged": "#CC79A7", "split": "#009E73", "spurious": "#F0E442", "missed": "#D55E00"}
_TICKS = (0, 2, 4, 6, 8, 10, 20, 50, 100, 200, 500, 1000)
_WIDTH_IN = 7.2
_TITLE_IN = 0.36
_LEGEND_IN = 0.4
_COLUMNS = 4
_PANEL_IN = _WIDTH_IN / _COLUMNS
_PANEL_PX = 640
_STYLE: Any = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "legend.fontsize": 7,
    "pdf.fonttype": 42,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def check_matplotlib() -> None:
    """See that matplotlib is there, before hours of work.

    Raises
    ------
    ConfigurationError
        Where it is not; says how to install it.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ConfigurationError(
            "the figures of the paper are drawn by matplotlib: pip install 'crystalbench[paper]'"
        ) from error


def draw_scatter(points: Sequence[Point], titles: Mapping[str, str], target: Path) -> None:
    """Draw figure 4 into ``target`` with the suffixes .png and .pdf."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH_IN, 3.6), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        for axes, field, label in ((left, "pq", "PQ"), (right, "cldice", "clDice of the boundaries")):
            _scatter_panel(axes, points, field, titles)
            axes.set_xlabel(f"{label} (%)")
        left.set_ylabel("relative error of the ACS (%)")
        handles, labels = left.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
        _save(figure, target)


def _scatter_panel(axes: Axes, points: Sequence[Point], field: str, titles: Mapping[str, str]) -> None:
    from matplotlib.ticker import NullLocator

    for number, (method, found) in enumerate(by_method(points).items()):
        x, y = ([100 * getattr(point, name) for point in found] for name in (field, "error"))
        colour, marker = _COLOURS[number % len(_COLOURS)], _MARKERS[number % len(_MARKERS)]
        axes.scatter(x, y, s=14, alpha=0.75, linewidths=0, label=titles[method], color=colour, marker=marker)
    told = correlation(points)
    rho, n = (told.rho_pq, told.n) if field == "pq" else (told.rho_cldice, told.n_cldice)
    axes.set_title(f"Spearman's $\\rho = {rho:.2f}$ (n = {n})" if rho == rho else f"n = {n}")
    axes.set_xlim(-3, 103)
    # Most errors are of some percent, and few are of a hundred and more.
    axes.set_yscale("symlog", linthresh=10, linscale=1)
    top = max((100 * point.error for point in points if point.error == point.error), default=0)
    axes.set_ylim(-0.5, 1.2 * max(top, 10))
    axes.set_yticks([tick for tick in _TICKS if tick <= 1.2 * max(top, 10)])
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_locator(NullLocator())
    axes.grid(alpha=0.25, linewidth=0.5)


@dataclass(frozen=True)
class Marked:
    """One method's crystals of an image by what became of them: ``kinds`` is H x W, an index into ``KINDS`` plus 1."""

    kinds: NDArray[np.uint8]
    prediction: NDArray[Any]
    missed: NDArray[Any]
    counts: dict[str, int]

    @property
    def wrong_edges(self) -> NDArray[np.bool_]:
        """The outlines of all crystals that are wrong, H x W."""
        of_prediction = find_boundaries(self.prediction, mode="inner") & (self.kinds > 1)
        return np.asarray(of_prediction | find_boundaries(self.missed, mode="inner"))


def marked(truth: NDArray[Any], prediction: NDArray[Any]) -> Marked:
    """Return what became of the crystals of ``prediction`` and ``truth``, both H x W labels."""
    errors = crystal_errors(truth, prediction)
    wrong = {"merged": errors.merged, "split": errors.split, "spurious": errors.spurious}
    kind = np.ones(errors.merged.size + 1, np.uint8)
    kind[0] = 0
    for name, crystals in wrong.items():
        kind[1:][crystals] = _code(name)
    kinds = kind[compact(prediction)]
    missed = np.where(np.append(False, errors.missed)[compact(truth)], truth, 0)
    kinds[(missed > 0) & (kinds == 0)] = _code("missed")
    counts = {name: int(crystals.sum()) for name, crystals in {**wrong, "missed": errors.missed}.items()}
    return Marked(kinds, prediction, missed, counts)


def _code(kind: str) -> int:
    return list(KINDS).index(kind) + 1


class _Panel(NamedTuple):
    """One picture of a case: H x W x 3 or its part within a window."""

    title: str
    image: NDArray[np.uint8]
    marked: Marked | None

    def picture(self, window: tuple[slice, slice]) -> NDArray[np.uint8]:
        shown = fitted(np.ascontiguousarray(self.image[window]), _PANEL_PX)
        if self.marked is None:
            return shown
        kinds = resized(self.marked.kinds[window], shown.shape)
        for kind, colour in KINDS.items():
            there = kinds == _code(kind)
            shown[there] = (0.4 * shown[there] + 0.6 * np.array(_rgb(colour))).astype(np.uint8)
        shown = outlined(shown, self.marked.prediction[window], (255, 255, 255))
        return outlined(shown, self.marked.missed[window], _rgb(KINDS["missed"]))


def draw_case(
    case: Case, sample: Sample, titles: Mapping[str, str], target: Path, *, zoomed: bool
) -> dict[str, Marked]:
    """Draw figure 5, or where ``zoomed`` figure 6, into ``target`` with the suffixes .png and .pdf.

    Returns
    -------
    dict
        What is marked, by method.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    image, truth = sample.image, sample.label
    found = {method: marked(truth, predicted.read_labels()) for method, predicted in case.predicted.items()}
    panels = list(_panels(case, image, truth, found, titles))
    window = zoom_window([one.wrong_edges for one in found.values()]) if zoomed else None
    heights = -(-len(panels) // _COLUMNS) * [_aspect(image) + _TITLE_IN / _PANEL_IN, *([1.0] if window else [])]
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH_IN, _PANEL_IN * sum(heights) + _LEGEND_IN), layout="constrained")
        grid = figure.subplots(len(heights), _COLUMNS, squeeze=False, height_ratios=heights)
        for axes in grid.flat:
            axes.set_axis_off()
        for number, panel in enumerate(panels):
            row, column = divmod(number, _COLUMNS)
            _draw_panel(grid[row * 2 if window else row][column], panel, window)
            if window:
                grid[row * 2 + 1][column].imshow(panel.picture(window))
        _add_legend(figure)
        _save(figure, target)
    return found


def _panels(
    case: Case, image: NDArray[np.uint8], truth: NDArray[Any], found: Mapping[str, Marked], titles: Mapping[str, str]
) -> Iterator[_Panel]:
    yield _Panel(f"{case.image}\n{image.shape[1]} x {image.shape[0]} px", image, None)
    yield _Panel(f"ground truth\n{np.unique(truth[truth > 0]).size} crystals", image, marked(truth, truth))
    for method, predicted in case.predicted.items():
        yield _Panel(f"{titles[method]}\nPQ {100 * predicted.scores.pq:.1f} %", image, found[method])


def _aspect(image: NDArray[np.uint8]) -> float:
    """Return height over width; of a tall image what its panel is given."""
    return min(image.shape[0] / image.shape[1], 1.6)


def _draw_panel(axes: Axes, panel: _Panel, window: tuple[slice, slice] | None) -> None:
    from matplotlib.patches import Rectangle

    height, width = panel.image.shape[:2]
    axes.imshow(panel.picture((slice(None), slice(None))), extent=(0, width, height, 0))
    axes.set_title(panel.title)
    if window:
        rows, columns = window
        corner, side = (columns.start, rows.start), rows.stop - rows.start
        for colour, line in (("black", 2.4), ("white", 1.2)):
            axes.add_patch(Rectangle(corner, side, side, fill=False, edgecolor=colour, linewidth=line))


def _add_legend(figure: Figure) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(facecolor=colour, label=kind) for kind, colour in KINDS.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)


def _rgb(colour: str) -> tuple[int, int, int]:
    red, green, blue = bytes.fromhex(colour[1:])
    return red, green, blue


def _save(figure: Figure, target: Path) -> None:
    # Without dates, so that the same results give the same files.
    for suffix, metadata in ((".png", {"Software": None}), (".pdf", {"CreationDate": None})):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=suffix[1:], dpi=300, metadata=metadata)
        write_atomic(target.with_suffix(suffix), buffer.getvalue())
