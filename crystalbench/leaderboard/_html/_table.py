"""The columns of the page's tables, and the groups of methods that no test tells apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from string import ascii_lowercase

import networkx as nx

from crystalbench.leaderboard import _cells
from crystalbench.leaderboard._cells import Column
from crystalbench.leaderboard._html._entries import Entry
from crystalbench.leaderboard._rows import Row
from crystalbench.leaderboard._significance import Comparison

Value = float | str | None


@dataclass(frozen=True)
class Sorted:
    """A column of the page: ``key`` names it, ``value`` is what it is sorted by, ``help`` says what it is."""

    key: str
    column: Column
    value: Callable[[Row], Value]
    help: str


def _first_rank(row: Row) -> float | None:
    return float(row.rank.split("-")[0]) if row.rank else None


def _yes(value: bool | None) -> str:
    return _cells.NOTHING if value is None else "yes" if value else "no"


def _resized(row: Row) -> str:
    return _yes(row.image_rescaling)


def _scales(row: Row) -> str:
    return _yes(row.multi_scale)


def _fusion(row: Row) -> str:
    return row.fusion or _cells.NOTHING


_SCORES = {column.header: column for column in _cells.SCORES}

COLUMNS = (
    Sorted("rank", _cells.RANK, _first_rank, "by mean PQ; a range spans what tests do not tell apart"),
    Sorted("method", _cells.METHOD, _cells.name, "title, settings, and how the run ended"),
    Sorted("pq", _SCORES["PQ %"], lambda row: row.pq, "panoptic quality, mean ± standard deviation over images"),
    Sorted("pq_low", _cells.PQ_INTERVAL, lambda row: row.pq_low, "95 % bootstrap interval of the mean PQ"),
    Sorted("sq", Column("SQ %", lambda row: _cells.percent(row.sq)), lambda row: row.sq, "segmentation quality"),
    Sorted("rq", Column("RQ %", lambda row: _cells.percent(row.rq)), lambda row: row.rq, "recognition quality"),
    Sorted("aji", _SCORES["AJI %"], lambda row: row.aji, "aggregated Jaccard index"),
    Sorted("mae_acs", _cells.MAE, lambda row: row.mae_acs, "mean absolute error of the average crystal size"),
    Sorted("mre_acs", _SCORES["MRE ACS\n%"], lambda row: row.mre_acs, "mean relative error of the same"),
    Sorted("acs", _cells.ACS, lambda row: row.acs, "average crystal size, predicted and true"),
    Sorted("latency_s", _cells.LATENCY, lambda row: row.latency_s, "of one image; with its library's post-processing"),
    Sorted("parameters", _cells.PARAMETERS, lambda row: row.parameters, "parameters of the preset `paper`"),
    Sorted("input_size", _cells.INPUT, lambda row: row.input_size, "side of the network's input"),
    Sorted("image_rescaling", Column("resized", _resized), _resized, "whether images are resized"),
    Sorted("multi_scale", Column("multi-\nscale", _scales), _scales, "whether an image is seen at several scales"),
    Sorted("fusion", Column("fusion", _fusion), _fusion, "how the scales are put together"),
    Sorted("n_images", _cells.IMAGES, lambda row: row.n_images, "images; of these without crystals, failed"),
)


def groups(entries: Sequence[Entry], pairs: Sequence[Comparison]) -> dict[int, str]:
    """Return letters for each ranked entry: two share one exactly where no test tells them apart.

    They are the largest sets of entries of which no two are told apart (a compact letter display, Piepho 2004).
    """
    ranked = {tuple(entry.row.key): entry.index for entry in entries if entry.row.rank}
    alike = nx.Graph()
    alike.add_nodes_from(ranked.values())
    alike.add_edges_from((ranked[tuple(p.key_a)], ranked[tuple(p.key_b)]) for p in pairs if not p.told_apart)
    cliques = sorted(sorted(clique) for clique in nx.find_cliques(alike))
    letters = ("".join(letter) for n in (1, 2) for letter in product(ascii_lowercase, repeat=n))
    named = list(zip(cliques, letters, strict=False))
    return {index: " ".join(letter for clique, letter in named if index in clique) for index in ranked.values()}
