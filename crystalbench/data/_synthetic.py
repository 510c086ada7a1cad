"""Made micrographs: one grain of fused or sintered magnesia on dark resin, with its crystals labelled.

The picture to copy is given in Neubauer et al. 2024, sections I and IV-A: polished and acid-etched
refractory raw material under an optical microscope. A crystal is an area of one colour; the boundary between
two of them is a dark line of changing visibility or a mere change of colour. Scratches, pores, impurities
and broken places look alike.

The structure is a power (Laguerre) diagram of packed circles, the usual model of a polycrystal (Lautensack
and Zuyev 2008), bent a little. Everything follows from the random generator that is handed in. The
generator is frozen: a change to what it draws needs a new ``VERSION``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage import measure
from skimage.morphology import disk

GENERATOR = "refractory"
VERSION = 1

LINE_PX = 5
"""Width of the unlabelled line between touching crystals."""
MIN_LENGTH_PX = 8
"""Shortest crystal that is labelled."""
MAX_CRYSTALS = 150
PX_PER_MM = (170, 270)

_MIN_WIDTH_PX = 4
_BLOCK_PX = 64
_PLACE_TRIES = 40
_LEAST_NEIGHBOUR_PX = 100

Plane = NDArray[np.float32]
Mask = NDArray[np.bool_]
Cells = NDArray[np.int32]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Population:
    """Crystals of one kind.

    Attributes
    ----------
    count
        How many are tried; those that find no room are left out.
    diameter
        Median of their diameters, in pixels.
    spread
        Standard deviation of the logarithm of the diameter.
    clusters
        Number of places where they gather; 0 spreads them over the grain.
    """

    count: int
    diameter: float
    spread: float = 0.25
    clusters: int = 0


@dataclass(frozen=True)
class MicrographSpec:
    """What a micrograph is to hold.

    Attributes
    ----------
    populations
        Kinds of crystals, the largest first: later ones get the room that is left.
    neighbours
        Number of other grains beside the one of interest.
    """

    populations: tuple[Population, ...]
    neighbours: int = 0


@dataclass(frozen=True)
class Structure:
    """The truth behind a micrograph, before it is painted.

    Attributes
    ----------
    cells
        H x W int32, without gaps: 0 is resin, every other value a crystal of any grain.
    label
        H x W int32, the crystals of the grain of interest, 1 to n, with lines of ``LINE_PX`` between them.
    grain
        H x W bool, the grain of interest.
    neighbours
        Whether other grains are visible.
    """

    cells: Cells
    label: Cells
    grain: Mask
    neighbours: bool


@dataclass(frozen=True)
class Micrograph:
    """A made micrograph with its truth.

    Attributes
    ----------
    image
        H x W x 3 uint8, RGB.
    label
        H x W int32, 0 for background, crystals 1 to n.
    grain
        H x W bool, the grain of interest, or None where no other grain is visible.
    um_per_px
        Micrometres per pixel.
    """

    image: NDArray[np.uint8]
    label: Cells
    grain: Mask | None
    um_per_px: float


def make_micrograph(height: int, width: int, rng: np.random.Generator, spec: MicrographSpec) -> Micrograph:
    """Draw the structure of a grain and paint it.

    Parameters
    ----------
    height, width
        Size in pixels.
    rng
        Source of every random choice; the same state gives the same bits.
    spec
        What to draw.
    """
    return paint(draw_structure(height, width, rng, spec), rng)


def draw_structure(height: int, width: int, rng: np.random.Generator, spec: MicrographSpec) -> Structure:
    """Draw the grain, its neighbours and their crystals; much cheaper than painting them."""
    grain, others = _draw_grains(rng, (height, width), spec.neighbours)
    y, x = _bent_grid(rng, (height, width))
    cells = _tidy(_power_cells(y, x, _place(rng, spec.populations, grain), grain))
    label = _labels(cells)
    for other in others:
        sites = _place(rng, (Population(int(rng.integers(1, 9)), 0.2 * min(height, width), 0.5),), other)
        cells = np.where(other, _power_cells(y, x, sites, other) + cells.max(), cells)
    return Structure(cells.astype(np.int32), label, grain, bool(others))


def paint(structure: Structure, rng: np.random.Generator) -> Micrograph:
    """Photograph a structure: polish, etch, light and sensor."""
    look = _Look.draw(rng)
    image = _etched_surface(rng, structure.cells, look)
    _add_boundaries(rng, image, structure.cells, look)
    solid = structure.cells > 0
    _add_defects(rng, image, structure.cells, look)
    _add_scratches(rng, image, solid, look)
    scene = np.where(solid[..., None], image, _resin(rng, solid.shape))
    return Micrograph(
        image=_photograph(rng, scene, solid),
        label=structure.label,
        grain=structure.grain if structure.neighbours else None,
        um_per_px=1000.0 / int(rng.integers(PX_PER_MM[0], PX_PER_MM[1] + 1)),
    )


# Structure


def _noise(rng: np.random.Generator, shape: tuple[int, ...], scale: float) -> Plane:
    """Draw smooth noise of mean 0 and deviation 1 whose features are ``scale`` pixels wide."""
    stride = max(int(scale) // 4, 1)
    size = [int(np.ceil(n / stride)) + 1 for n in shape]
    coarse = rng.standard_normal([int(n * stride / scale) + 4 for n in size], dtype=np.float32)
    fine = ndimage.zoom(coarse, scale / stride, order=3)[: size[0], : size[1]]
    fine = (fine - fine.mean()) / (fine.std() + 1e-6)
    if stride > 1:
        fine = ndimage.zoom(fine, stride, order=1)
    return np.asarray(fine[: shape[0], : shape[1]], np.float32)


def _draw_grains(rng: np.random.Generator, shape: tuple[int, int], neighbours: int) -> tuple[Mask, list[Mask]]:
    """Draw the grain of interest, which fills the frame, and others in the corners that it leaves."""
    y, x = np.mgrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j].astype(np.float32)
    corners = (rng.permutation(4)[:neighbours] + 0.5) * (np.pi / 2) + rng.uniform(-0.35, 0.35, neighbours)
    offsets = rng.uniform(0.72, 0.95, neighbours)
    depth = np.minimum(_fitted_polygon(rng, y, x), _polygon(y, x, corners, offsets))
    grain = _largest_piece(depth + _roughness(rng, shape) > 0)
    free = ndimage.distance_transform_edt(~grain) > rng.uniform(3, 12)
    others: list[Mask] = []
    for angle, offset in zip(corners, offsets, strict=True):
        beyond = -_polygon(y, x, angle[None], offset[None]) - rng.uniform(0.02, 0.1)
        other = free & (beyond + _roughness(rng, shape) > 0)
        if other.sum() > _LEAST_NEIGHBOUR_PX:
            others.append(_largest_piece(other))
            free &= ~others[-1]
    return grain, others


def _fitted_polygon(rng: np.random.Generator, y: Plane, x: Plane) -> Plane:
    """Draw a convex polygon that fills the frame or is cut by it; the depth inside it, in half frames."""
    sides = int(rng.integers(5, 10))
    angle = (np.arange(sides) + rng.uniform(-0.3, 0.3, sides) + rng.uniform(0, sides)) * (2 * np.pi / sides)
    offset = rng.uniform(0.75, 1.1, sides)
    row, column = np.mgrid[-2:2:81j, -2:2:81j]
    inside = _polygon(row, column, angle, offset) > 0
    margin = rng.choice([1.0 / 0.93, 1.0 / 0.96, 0.9], 4, p=[0.45, 0.45, 0.1])
    top, bottom = np.array([row[inside].min(), row[inside].max()]) * margin[:2]
    left, right = np.array([column[inside].min(), column[inside].max()]) * margin[2:]
    y, x = top + (bottom - top) * (y + 1) / 2, left + (right - left) * (x + 1) / 2
    return _polygon(y, x, angle, offset)


def _polygon(y: Plane, x: Plane, angles: Floats, offsets: Floats) -> Plane:
    """Depth of each point below the nearest of the sides, which face ``angles`` at ``offsets`` from the origin."""
    depth = np.full(x.shape, np.inf, np.float32)
    for angle, offset in zip(angles, offsets, strict=True):
        depth = np.minimum(depth, np.float32(offset) - np.float32(np.cos(angle)) * x - np.float32(np.sin(angle)) * y)
    return depth


def _roughness(rng: np.random.Generator, shape: tuple[int, int]) -> Plane:
    """Draw noise, in half frames, that bends and frays the outline of a grain."""
    coarse = rng.uniform(0.02, 0.08) * _noise(rng, shape, min(shape) / 4)
    medium = rng.uniform(0.002, 0.01) * _noise(rng, shape, min(shape) / 20)
    fine = rng.uniform(0.5, 2.0) / min(shape) * _noise(rng, shape, 8)
    return np.asarray(coarse + medium + fine, np.float32)


def _largest_piece(mask: Mask) -> Mask:
    pieces = measure.label(mask, connectivity=1)
    largest = pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:])
    return np.asarray(ndimage.binary_fill_holes(largest), bool)


def _bent_grid(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Plane, Plane]:
    """Draw pixel coordinates, bent so that the sides of crystals are not quite straight."""
    long, medium, short = 0.012 * min(shape), rng.uniform(0.4, 1.8), rng.uniform(0.1, 0.4)
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    for grid in (y, x):
        grid += long * _noise(rng, shape, min(shape) / 4)
        grid += medium * _noise(rng, shape, 24) + short * _noise(rng, shape, 8)
    return y, x


@dataclass(frozen=True)
class _Sites:
    y: Plane
    x: Plane
    radius: Plane


def _place(rng: np.random.Generator, populations: Sequence[Population], grain: Mask) -> _Sites:
    """Pack circles into the grain, one after the other, each into the first of a few places that has room."""
    inside = np.argwhere(grain)
    placed = np.empty((0, 3))
    for population in populations:
        centres = inside[rng.integers(len(inside), size=max(population.clusters, 1))]
        reach = 0.55 * population.diameter * np.sqrt(population.count / max(population.clusters, 1))
        radii = 0.5 * population.diameter * np.exp(population.spread * rng.standard_normal(population.count))
        for radius in -np.sort(-radii)[: MAX_CRYSTALS - len(placed)]:
            tries = inside[rng.integers(len(inside), size=_PLACE_TRIES)].astype(float)
            if population.clusters:
                tries = centres[rng.integers(len(centres))] + reach * rng.standard_normal((_PLACE_TRIES, 2))
            free = _room(tries, placed, grain)
            best = int(np.argmax(free >= 0.8 * radius))
            if free[best] >= 0.8 * radius or len(placed) == 0:
                placed = np.vstack([placed, [*tries[best], radius]])
    y, x, radius = placed.T.astype(np.float32)
    return _Sites(y, x, radius)


def _room(points: Floats, placed: Floats, grain: Mask) -> Floats:
    """Return the largest radius at each point that stays clear of the circles; negative outside the grain."""
    row, column = np.round(points).astype(int).T
    valid = (row >= 0) & (column >= 0) & (row < grain.shape[0]) & (column < grain.shape[1])
    valid[valid] = grain[row[valid], column[valid]]
    distance = np.hypot(points[:, :1] - placed[:, 0], points[:, 1:] - placed[:, 1]) - placed[:, 2]
    return np.where(valid, distance.min(axis=1, initial=np.inf), -1.0)


def _power_cells(y: Plane, x: Plane, sites: _Sites, inside: Mask) -> Cells:
    """Return the number of the site of least power, from 1, at each pixel inside; 0 elsewhere."""
    cells = np.zeros(inside.shape, np.int32)
    for top in range(0, inside.shape[0], _BLOCK_PX):
        for left in range(0, inside.shape[1], _BLOCK_PX):
            block = np.s_[top : top + _BLOCK_PX, left : left + _BLOCK_PX]
            if inside[block].any():
                cells[block] = _power_block(y[block], x[block], sites)
    return np.where(inside, cells, 0).astype(np.int32)


def _power_block(y: Plane, x: Plane, sites: _Sites) -> Cells:
    """Do the same for one block, looking only at sites that can win somewhere in it."""
    near_y, far_y = _span(y, sites.y)
    near_x, far_x = _span(x, sites.x)
    weight = sites.radius**2
    rivals = np.flatnonzero(near_y**2 + near_x**2 - weight <= (far_y**2 + far_x**2 - weight).min())
    power = (y[..., None] - sites.y[rivals]) ** 2 + (x[..., None] - sites.x[rivals]) ** 2 - weight[rivals]
    return np.asarray(rivals[power.argmin(axis=-1)] + 1, np.int32)


def _span(values: Plane, sites: Plane) -> tuple[Plane, Plane]:
    """Return the least and the largest distance of each site to the interval that the values cover."""
    low, high = values.min(), values.max()
    return np.maximum(np.maximum(low - sites, sites - high), 0), np.maximum(high - sites, sites - low)


def _tidy(cells: Cells) -> Cells:
    """Give cells that would leave no crystal to label to the cells beside them, until none is left."""
    while True:
        cells = measure.label(cells, connectivity=1).astype(np.int32)
        pieces = _Pieces.of(cells)
        poor = np.setdiff1d(np.arange(1, cells.max() + 1), pieces.cell)
        if len(poor) == 0 or cells.max() == 1:
            return cells
        for cell, box in enumerate(ndimage.find_objects(cells), start=1):
            if cell in poor:
                _absorb(cells, cell, tuple(slice(max(s.start - 1, 0), s.stop + 1) for s in box))


def _absorb(cells: Cells, cell: int, box: tuple[slice, ...]) -> None:
    window = cells[box]
    source = (window > 0) & (window != cell)
    if source.any():
        nearest = ndimage.distance_transform_edt(~source, return_distances=False, return_indices=True)
        window[window == cell] = window[tuple(nearest)][window == cell]


def _lines(cells: Cells) -> Mask:
    """Return the middle pixels of the lines between crystals, one pixel wide."""
    middle = np.zeros(cells.shape, bool)
    right, below = (cells[:, :-1], cells[:, 1:]), (cells[:-1], cells[1:])
    middle[:, :-1] |= (right[0] != right[1]) & (right[0] > 0) & (right[1] > 0)
    middle[:-1] |= (below[0] != below[1]) & (below[0] > 0) & (below[1] > 0)
    return middle


def _with_lines(cells: Cells) -> Cells:
    line = ndimage.binary_dilation(_lines(cells), disk(LINE_PX // 2))
    return np.where(line, 0, cells).astype(np.int32)


@dataclass(frozen=True)
class _Pieces:
    """Connected pieces that the lines leave of the cells.

    ``number`` are those that are labelled: of each cell the largest, where it is large enough; ``cell`` is theirs.
    """

    pieces: Cells
    number: NDArray[np.intp]
    cell: NDArray[np.int32]

    @classmethod
    def of(cls, cells: Cells) -> _Pieces:
        pieces = measure.label(_with_lines(cells), connectivity=1).astype(np.int32)
        area = np.bincount(pieces.ravel())
        owner = np.zeros(len(area), np.int32)
        owner[pieces] = cells
        boxes = ndimage.find_objects(pieces)
        length = np.array([0, *(max(s.stop - s.start for s in box) for box in boxes)])
        order = np.argsort(-area[1:], kind="stable") + 1
        number = np.sort(order[np.unique(owner[order], return_index=True)[1]])
        number = number[(length[number] >= MIN_LENGTH_PX) & (area[number] >= _MIN_WIDTH_PX * length[number])]
        return cls(pieces, number, owner[number])


def _labels(cells: Cells) -> Cells:
    """Return the labelled crystals: one connected piece a cell, numbered from 1."""
    kept = _Pieces.of(cells)
    lookup = np.zeros(kept.pieces.max() + 1, np.int32)
    lookup[kept.number] = np.arange(1, len(kept.number) + 1)
    return lookup[kept.pieces]


# Appearance


@dataclass(frozen=True)
class _Look:
    """What all crystals of a micrograph share: material, etching, polish."""

    base: Plane
    spread: float
    hue: Plane
    depth: float
    width: float
    texture: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> _Look:
        tints = np.array([[0, 0, 0], [9, 2, -9], [6, -6, 4], [-5, 4, -3], [-7, 0, 8]], np.float32)
        base = rng.uniform(105, 175) + rng.uniform(0.2, 1.5) * tints[rng.integers(len(tints))]
        return cls(
            base=base.astype(np.float32),
            spread=float(rng.uniform(3, 13)),
            hue=(rng.uniform(0.1, 0.4) * tints[rng.integers(1, len(tints))] / 8).astype(np.float32),
            depth=float(rng.uniform(28, 70)),
            width=float(rng.uniform(0.7, 1.9)),
            texture=float(rng.uniform(0.8, 3.0)),
        )


def _etched_surface(rng: np.random.Generator, cells: Cells, look: _Look) -> Plane:
    """Paint each crystal in its own colour, with the texture that the acid leaves, H x W x 3."""
    count = int(cells.max()) + 1
    tone, shift = look.spread * rng.standard_normal((2, count, 1))
    colour = (look.base + tone + shift * look.hue).astype(np.float32)
    roughness = look.texture * rng.uniform(0.5, 1.5, count).astype(np.float32)
    grainy = roughness[cells] * (0.7 * _noise(rng, cells.shape, 3) + 0.7 * _noise(rng, cells.shape, 9))
    broad = rng.uniform(1, 4) * _noise(rng, cells.shape, 70)
    return np.asarray(colour[cells] + (grainy + broad)[..., None], np.float32)


@dataclass(frozen=True)
class _Boundaries:
    """Boundary pixels by the pair of crystals that they part.

    ``nearest`` indexes, for each pixel, the boundary pixel next to it, ``distance`` is how far that is;
    ``pair`` is the pair of each boundary pixel, ``sides`` the two cells of each pair.
    """

    at: tuple[NDArray[np.intp], NDArray[np.intp]]
    nearest: NDArray[np.intp]
    distance: Plane
    pair: NDArray[np.intp]
    sides: NDArray[np.int64]

    @classmethod
    def of(cls, cells: Cells) -> _Boundaries:
        middle = _lines(cells)
        row, column = np.nonzero(middle)
        at = (row, column)
        distance, nearest = ndimage.distance_transform_edt(~middle, return_indices=True)
        index = np.zeros(cells.shape, np.intp)
        index[at] = np.arange(len(row))
        right = cells[row, np.minimum(column + 1, cells.shape[1] - 1)]
        below = cells[np.minimum(row + 1, cells.shape[0] - 1), column]
        here = cells[at]
        other = np.where((right != here) & (right > 0), right, below)
        ends = np.sort(np.stack([here, other], axis=1), axis=1).astype(np.int64)
        sides, pair = np.unique(ends, axis=0, return_inverse=True)
        return cls(at, index[tuple(nearest)], distance.astype(np.float32), pair.reshape(-1), sides)


def _add_boundaries(rng: np.random.Generator, image: Plane, cells: Cells, look: _Look) -> None:
    """Etch the boundaries: lines of changing depth and width, some so faint that only the colour changes."""
    if not _lines(cells).any():
        return
    lines = _Boundaries.of(cells)
    contrast = _contrast(image, cells, lines.sides)
    depth = _line_depths(rng, contrast, look.depth)
    visible = _visibility(rng, cells.shape, lines, contrast)
    width = look.width * np.exp(0.25 * rng.standard_normal(len(depth)))
    groove = (depth[lines.pair] * visible).astype(np.float32)[lines.nearest]
    spread = width.astype(np.float32)[lines.pair][lines.nearest]
    near = lines.distance < 6
    profile = groove[near] * np.exp(-((lines.distance[near] / spread[near]) ** 2))
    relief = 0.15 * groove[near] * np.exp(-(((lines.distance[near] - 2.5) / 1.2) ** 2))
    ink = (1 + 0.05 * rng.standard_normal(3)).astype(np.float32)
    image[near] += (relief - profile)[:, None] * ink


def _contrast(image: Plane, cells: Cells, sides: NDArray[np.int64]) -> Floats:
    """Return the difference in colour between the two crystals of each pair, in grey levels."""
    flat = cells.ravel()
    area = np.maximum(np.bincount(flat), 1)
    mean = np.stack([np.bincount(flat, image[..., c].ravel()) / area for c in range(3)], axis=1)
    return np.asarray(np.abs(mean[sides[:, 0]] - mean[sides[:, 1]]).max(axis=1))


def _line_depths(rng: np.random.Generator, contrast: Floats, depth: float) -> Floats:
    """Draw the depth of each pair's line in grey levels; where the colours differ enough some pairs have none."""
    kind = rng.random(len(contrast))
    clear = depth * rng.uniform(0.65, 1.2, len(contrast))
    faint = np.maximum(depth * rng.uniform(0.3, 0.6, len(contrast)), 16)
    bare = depth * rng.uniform(0.0, 0.15, len(contrast))
    return np.select([(kind < 0.25) & (contrast > 10), kind < 0.5], [bare, faint], clear)


def _visibility(rng: np.random.Generator, shape: tuple[int, ...], lines: _Boundaries, contrast: Floats) -> Floats:
    """Draw the share of the line's depth at each boundary pixel; it vanishes over parts of a boundary, never all."""
    field = 0.75 + 0.4 * _noise(rng, shape, 36) + 0.1 * _noise(rng, shape, 6)
    visible = np.clip(field[lines.at].astype(float), 0.0, 1.0)
    mean = np.bincount(lines.pair, visible) / np.bincount(lines.pair)
    wanted = np.where(contrast > 10, 0.5, 0.75)
    return np.asarray(np.clip(visible + np.maximum(wanted - mean, 0)[lines.pair], 0.0, 1.0))


def _add_defects(rng: np.random.Generator, image: Plane, cells: Cells, look: _Look) -> None:
    """Pores, inclusions of a second phase and broken places; half of them sit on boundaries."""
    inside, lines = np.argwhere(cells > 0), np.argwhere(_lines(cells))
    megapixels = len(inside) / 1e6
    for kind, per_megapixel in (
        (_stamp_pore, rng.gamma(1.2, 90)),
        (_stamp_inclusion, rng.gamma(0.8, 80)),
        (_stamp_break, rng.gamma(0.5, 14)),
    ):
        for _ in range(rng.poisson(per_megapixel * megapixels)):
            places = lines if len(lines) and rng.random() < 0.5 else inside
            kind(rng, image, places[rng.integers(len(places))], look)


def _blob(
    rng: np.random.Generator, shape: tuple[int, ...], centre: NDArray[np.intp], radius: float
) -> tuple[tuple[slice, slice], Plane]:
    """Draw a rough disk: a window around it, and how many pixels deep each pixel of the window lies inside."""
    half = int(1.6 * radius) + 3
    top, left = np.maximum(centre - half, 0)
    window = np.s_[top : centre[0] + half + 1, left : centre[1] + half + 1]
    y, x = np.ogrid[window]
    y, x = y[y < shape[0]].reshape(-1, 1) - centre[0], x[x < shape[1]].reshape(1, -1) - centre[1]
    angle = np.arctan2(y, x)
    edge = 1.0 + sum(rng.normal(0, 0.25 / k) * np.cos(k * angle + rng.uniform(0, 2 * np.pi)) for k in (2, 3, 5))
    return window, (radius * edge - np.hypot(y, x)).astype(np.float32)


def _blend(image: Plane, window: tuple[slice, slice], opacity: Plane, colour: Plane) -> None:
    image[window] += opacity[..., None] * (colour - image[window])


def _stamp_pore(rng: np.random.Generator, image: Plane, centre: NDArray[np.intp], look: _Look) -> None:
    radius = float(np.clip(rng.lognormal(0.7, 0.6), 0.8, 14))
    window, inside = _blob(rng, image.shape, centre, radius)
    _blend(image, window, 0.25 * np.exp(-((inside / 1.5) ** 2)), look.base + 45)
    dark = (look.base * rng.uniform(0.1, 0.45)).astype(np.float32)
    _blend(image, window, np.clip(inside + 0.5, 0, 1), dark)
    if radius > 4 and rng.random() < 0.4:
        _blend(image, window, 0.5 * np.clip(inside - 0.55 * radius, 0, 1), look.base)


def _stamp_inclusion(rng: np.random.Generator, image: Plane, centre: NDArray[np.intp], look: _Look) -> None:
    radius = float(np.clip(rng.lognormal(1.0, 0.5), 1.2, 12))
    window, inside = _blob(rng, image.shape, centre, radius)
    _blend(image, window, 0.35 * np.exp(-((inside / 1.0) ** 2)), 0.5 * look.base)
    tone = look.base + rng.choice([-45, -30, 35]) + 8 * rng.standard_normal(3)
    _blend(image, window, 0.85 * np.clip(inside + 0.5, 0, 1), tone.astype(np.float32))


def _stamp_break(rng: np.random.Generator, image: Plane, centre: NDArray[np.intp], look: _Look) -> None:
    """Tear the crystal as a bad polish does: dark and bright splinters."""
    window, inside = _blob(rng, image.shape, centre, float(rng.uniform(5, 18)))
    splinters = _noise(rng, inside.shape, 5) + 0.5 * _noise(rng, inside.shape, 2)
    colour = (look.base - 25)[None, None] + (38 * np.tanh(1.5 * splinters))[..., None]
    _blend(image, window, 0.85 * np.clip(inside / 4, 0, 1), colour)


def _add_scratches(rng: np.random.Generator, image: Plane, solid: Mask, look: _Look) -> None:
    """Draw families of straight, parallel scratches, about as dark and wide as boundaries."""
    mark = np.zeros(solid.shape, np.float32)
    size = max(solid.shape)
    for _ in range(rng.poisson(1.5 * np.sqrt(size / 300))):
        angle, darkness = rng.uniform(0, np.pi), rng.uniform(0.25, 1.0)
        for _ in range(1 + rng.poisson(rng.gamma(1.2, 3.0) * np.sqrt(size / 300))):
            length = size * rng.uniform(0.1, 0.9)
            middle = rng.uniform((0, 0), solid.shape)
            depth = look.depth * darkness * rng.uniform(0.4, 1.1)
            _scratch(rng, mark, middle, angle + rng.normal(0, 0.02), length, depth)
    image[solid] -= mark[solid][:, None]


def _scratch(
    rng: np.random.Generator,
    mark: Plane,
    middle: Floats,
    angle: float,
    length: float,
    depth: float,
) -> None:
    """Draw one scratch into ``mark`` that starts and ends faintly."""
    along = np.array([np.sin(angle), np.cos(angle)])
    axis = int(np.argmax(np.abs(along)))
    reach = 0.5 * length * abs(along[axis])
    first, last = np.clip([middle[axis] - reach, middle[axis] + reach], 0, mark.shape[axis] - 1).astype(int)
    step = np.arange(first, last + 1)[:, None]
    cross = middle[1 - axis] + (step - middle[axis]) * (along[1 - axis] / along[axis])
    side = np.floor(cross).astype(int) + np.arange(-3, 5)
    distance = (side - cross) * along[axis]
    fade = np.clip(2.5 * (1 - np.abs(step - middle[axis]) / (reach + 1)), 0, 1)
    uneven = np.clip(1 + 0.3 * np.cumsum(rng.standard_normal(len(step)))[:, None] / np.sqrt(len(step) + 1), 0.2, 1.5)
    value = (depth * fade * uneven * np.exp(-((distance / rng.uniform(0.6, 1.1)) ** 2))).astype(np.float32)
    index = [np.broadcast_to(step, side.shape), side] if axis == 0 else [side, np.broadcast_to(step, side.shape)]
    valid = (side >= 0) & (side < mark.shape[1 - axis])
    at = (index[0][valid], index[1][valid])
    mark[at] = np.maximum(mark[at], value[valid])


def _resin(rng: np.random.Generator, shape: tuple[int, ...]) -> Plane:
    """Paint dark mounting resin, H x W x 3, with faint clouds and a few specks."""
    colour = rng.uniform(18, 62) + rng.normal(0, 3, 3)
    clouds = rng.uniform(1, 5) * _noise(rng, shape, 40) + rng.uniform(0.5, 3) * _noise(rng, shape, 5)
    specks = 25 * np.clip(_noise(rng, shape, 4) - 2.6, 0, 1.5)
    return np.asarray(colour + (clouds + specks)[..., None], np.float32)


def _photograph(rng: np.random.Generator, image: Plane, solid: Mask) -> NDArray[np.uint8]:
    """Add uneven light, rounded edges of the grains, the blur of the lens and the noise of the sensor."""
    shape = solid.shape
    edge = ndimage.gaussian_filter(solid.astype(np.float32), 2.5)
    image = image * (1 - rng.uniform(0, 0.5) * (solid * np.clip(1 - edge, 0, 1)))[..., None]
    y, x = np.ogrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j]
    slope = rng.normal(0, 0.035, 2)
    light = 1 + slope[0] * y + slope[1] * x + 0.03 * _noise(rng, shape, max(shape) / 3)
    image = image * light.astype(np.float32)[..., None]
    blur = rng.uniform(0.45, 0.85)
    image = ndimage.gaussian_filter(image, (blur, blur, 0))
    sensor = rng.standard_normal(image.shape, dtype=np.float32)
    image += rng.uniform(1.2, 3.5) * sensor * np.sqrt(np.clip(image, 10, 255) / 128)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)
