"""How long a pixel is, and who says so."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import tifffile

from crystalbench.data._dataset import read_manifest, read_settings
from crystalbench.data._images import DECODING_ERRORS
from crystalbench.measure._images import Micrograph

_TIFF_SUFFIXES = frozenset({".tif", ".tiff"})
_UM = {"nm": 1e-3, "um": 1.0, "mm": 1e3, "cm": 1e4, "m": 1e6, "Å": 1e-4, "pm": 1e-6, "inch": 25_400.0, "in": 25_400.0}
_SPELT = {"micron": "um", "microns": "um", "µm": "um", "μm": "um", "\\u00B5m": "um", "angstrom": "Å"}
_INCH_UM, _CM_UM = 25_400.0, 10_000.0
_PRINTERS_DPI = (72, 75, 96, 100, 150, 180, 200, 240, 300, 400, 600, 1200)
_SQUARE = 1e-3


@dataclass(frozen=True)
class Scale:
    """Micrometres a pixel, None where they are unknown.

    Parameters
    ----------
    um_per_px
        The scale.
    origin
        Who says so; empty where nobody does.
    note
        Why a scale that is there was not taken; empty where none was passed over.
    """

    um_per_px: float | None = None
    origin: str = ""
    note: str = ""


def find_scales(images: Sequence[Micrograph], given: float | None) -> dict[str, Scale]:
    """Return the scale of each image by its name.

    That is the first of these that there is: ``given``; the image's row of ``manifest.csv`` and then ``dataset.yaml``
    of its folder; and the tags of a TIFF file, of OME, of ImageJ, or its resolution in inches or centimetres. A
    resolution that printers have, such as 72 or 300 dpi, is none of a microscope and passed over; so are pixels that
    are not square.

    Raises
    ------
    CrystalbenchError
        Where ``manifest.csv`` or ``dataset.yaml`` cannot be used.
    """
    if given:
        return {image.name: Scale(given, "--um-per-px") for image in images}
    told = {root: _told(root) for root in {image.root for image in images}}
    return {
        image.name: told[image.root].get(image.path.name) or told[image.root][""] or _of_file(image.path)
        for image in images
    }


def _told(root: Path) -> dict[str, Scale | None]:
    """Return what a data set says of its images by their file names, and of all of them under no name."""
    of_all = read_settings(root).um_per_px
    rows = read_manifest(root) or []
    by_image = {row.image: Scale(row.um_per_px, "manifest.csv") for row in rows if row.um_per_px}
    return {**by_image, "": Scale(of_all, "dataset.yaml") if of_all else None}


def _of_file(path: Path) -> Scale:
    return _of_tags(path) if path.suffix.lower() in _TIFF_SUFFIXES else Scale()


def _of_tags(path: Path) -> Scale:
    try:
        with tifffile.TiffFile(path) as file:
            found = next(_tags(file), None)
    except (*DECODING_ERRORS, ElementTree.ParseError, AttributeError):
        # The image is read later on, and what is wrong with it is said there.
        return Scale()
    if found is None:
        return Scale()
    origin, (x, y) = found
    if not (0 < x < math.inf and 0 < y < math.inf):
        return Scale()
    if abs(x / y - 1) > _SQUARE:
        return Scale(note=f"{origin} says {x:.4g} x {y:.4g} um a pixel, which is not square")
    if origin == "TIFF resolution" and (dpi := _printers_dpi(x)):
        return Scale(note=f"{origin} says {dpi} dpi, as programs write for printers")
    return Scale(x, origin)


def _tags(file: tifffile.TiffFile) -> Iterator[tuple[str, tuple[float, float]]]:
    """Yield who says how wide and high a pixel is in micrometres, the most reliable first."""
    for origin, read in (("OME", _of_ome), ("ImageJ", _of_imagej), ("TIFF resolution", _of_resolution)):
        if (sides := read(file)) is not None:
            yield origin, sides


_Sides = tuple[float, float] | None


def _of_ome(file: tifffile.TiffFile) -> _Sides:
    pixels = ElementTree.fromstring(file.ome_metadata).find(".//{*}Pixels") if file.is_ome else None
    if pixels is None:
        return None
    sides = [
        float(pixels.get(f"PhysicalSize{axis}", "nan")) * _unit(pixels.get(f"PhysicalSize{axis}Unit", "um"))
        for axis in "XY"
    ]
    return None if math.isnan(sum(sides)) else (sides[0], sides[1])


def _of_imagej(file: tifffile.TiffFile) -> _Sides:
    if not file.is_imagej:
        return None
    unit = _unit(str((file.imagej_metadata or {}).get("unit", "")))
    return None if math.isnan(unit) else _from_resolution(file, unit)


def _of_resolution(file: tifffile.TiffFile) -> _Sides:
    tag = file.pages[0].tags.get("ResolutionUnit")
    # Without the tag the unit is the inch, but then the resolution is rarely one.
    units = {tifffile.RESUNIT.INCH: _INCH_UM, tifffile.RESUNIT.CENTIMETER: _CM_UM}
    unit = units.get(tag.value) if tag is not None and not file.is_imagej else None
    return None if unit is None else _from_resolution(file, unit)


def _from_resolution(file: tifffile.TiffFile, unit_um: float) -> _Sides:
    tags = [file.pages[0].tags.get(f"{axis}Resolution") for axis in "XY"]
    if None in tags:
        return None
    x, y = (unit_um * tag.value[1] / tag.value[0] for tag in tags)
    return x, y


def _unit(name: str) -> float:
    """Return a unit of length in micrometres, NaN where it is none, such as a pixel."""
    return _UM.get(_SPELT.get(name.strip(), name.strip()), math.nan)


def _printers_dpi(um_per_px: float) -> int | None:
    dpi = _INCH_UM / um_per_px
    return next((known for known in _PRINTERS_DPI if abs(dpi / known - 1) < 1e-3), None)
