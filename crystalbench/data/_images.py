"""Images and label maps: files in, arrays out, and back."""

from __future__ import annotations

import io
import struct
import threading
import tokenize
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from crystalbench._exceptions import DataError, LabelError
from crystalbench._files import write_atomic

IMAGE_SUFFIXES = frozenset({".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp"})
LABEL_SUFFIXES = frozenset({".png", ".tif", ".tiff", ".npy"})
MAX_PIXELS = 500_000_000

_TIFF_SUFFIXES = frozenset({".tif", ".tiff"})
_ORIENTATION_TAG = 274
_PILLOWS_LIMIT = threading.Lock()
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
DECODING_ERRORS = (
    OSError,
    EOFError,
    IndexError,
    KeyError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
    tifffile.TiffFileError,
    tokenize.TokenError,
)
"""What libraries raise on damaged files."""


def read_image(path: Path) -> NDArray[np.uint8]:
    """Read a micrograph as RGB.

    Grey is repeated to three channels, a palette is expanded, alpha is dropped. Values of 16 bit are scaled
    linearly so that the image's largest value becomes 255. An EXIF orientation is not applied: pixels stay
    where the file has them, as in the label map.

    Parameters
    ----------
    path
        PNG, TIFF, JPEG or BMP; 8 or 16 bit; grey, RGB, either with alpha, or palette.

    Returns
    -------
    NDArray[np.uint8]
        H x W x 3.

    Raises
    ------
    DataError
        Where the file is missing, truncated, of several pages, channel-first, or of another pixel type.
    """
    return decode_image(path)[0]


def conversion(path: Path) -> str | None:
    """Say what :func:`read_image` changes, or None where the pixels are the file's own.

    Raises
    ------
    DataError
        As :func:`read_image`.
    """
    return ", ".join(decode_image(path)[1]) or None


def decode_image(path: Path) -> tuple[NDArray[np.uint8], list[str]]:
    """Return what :func:`read_image` does, and a note for each conversion.

    Raises
    ------
    DataError
        As :func:`read_image`.
    """
    with _naming(path):
        pixels, notes = _read_pixels(path)
    colours, has_alpha = _colour_channels(path, pixels)
    if has_alpha:
        notes.append("alpha dropped")
    eight_bit = _to_eight_bit(path, colours, notes)
    if eight_bit.shape[2] == 1:
        notes.append("grey repeated to RGB")
        eight_bit = np.repeat(eight_bit, 3, axis=2)
    return np.ascontiguousarray(eight_bit), notes


def read_colours(path: Path) -> NDArray[Any]:
    """Read an image as H x W x (1 or 3) in the file's own depth, so that no two colours become one.

    Raises
    ------
    DataError
        As :func:`read_image`, and where the format is JPEG.
    """
    if path.suffix.lower() in {".jpg", ".jpeg"}:
        raise DataError(f"{path} is JPEG, which changes colours: save it as PNG, TIFF or BMP")
    with _naming(path):
        pixels, _ = _read_pixels(path)
    return _colour_channels(path, pixels)[0]


def image_shape(path: Path) -> tuple[int, int]:
    """Return height and width in pixels from the file's header alone.

    Raises
    ------
    DataError
        Where the header cannot be read.
    """
    with _naming(path):
        if path.suffix.lower() in _TIFF_SUFFIXES:
            with tifffile.TiffFile(path) as file:
                page = file.pages[0]
                return int(page.imagelength), int(page.imagewidth)
        with _open(path) as image:
            return image.height, image.width


def read_labels(path: Path) -> NDArray[np.integer[Any]]:
    """Read a label map in the file's own integer type; 0 is background.

    Parameters
    ----------
    path
        PNG (8 or 16 bit, or palette indices), TIFF of any integer type, or NPY.

    Returns
    -------
    NDArray[np.integer]
        H x W. A map of one bit a pixel is returned as uint8.

    Raises
    ------
    LabelError
        Where the values are floats or negative, or there is more than one channel.
    DataError
        Where the file is missing, truncated or of another kind.
    """
    return check_label_array(path, _read_label_array(path))


def check_label_array(path: Path, labels: NDArray[Any]) -> NDArray[np.integer[Any]]:
    """Return an array that ``path`` holds as a label map.

    Raises
    ------
    LabelError
        As :func:`read_labels`.
    """
    if labels.ndim != 2:
        raise LabelError(f"{path} has shape {labels.shape} and is no label map: save one channel, height x width")
    if labels.dtype == bool:
        labels = labels.astype(np.uint8)
    if not np.issubdtype(labels.dtype, np.integer):
        raise LabelError(f"{path} holds {labels.dtype} values and is no label map: save integers")
    if labels.size and labels.min() < 0:
        raise LabelError(f"{path} holds negative labels: save 0 for background and positive integers")
    return labels


def read_grain(path: Path) -> NDArray[np.bool_]:
    """Read a grain mask, H x W, true inside the grain (wherever the file is not 0).

    Raises
    ------
    DataError
        As :func:`read_labels`.
    """
    return np.asarray(read_labels(path) != 0)


def write_labels(folder: Path, stem: str, labels: NDArray[np.integer[Any]]) -> Path:
    """Write ``labels`` (H x W, not negative) without loss and return the file.

    Up to 65535 it is ``STEM.png`` of 16 bit, else ``STEM.tif`` of 32 bit.

    Raises
    ------
    LabelError
        Where a label is negative or does not fit 32 bit.
    """
    low, high = (int(labels.min()), int(labels.max())) if labels.size else (0, 0)
    if low < 0 or high >= 2**32:
        raise LabelError(f"labels of {stem} go from {low} to {high}: renumber them into 0 to {2**32 - 1}")
    if high <= np.iinfo(np.uint16).max:
        path, other = folder / f"{stem}.png", folder / f"{stem}.tif"
        write_atomic(path, _png(labels.astype(np.uint16)))
    else:
        path, other = folder / f"{stem}.tif", folder / f"{stem}.png"
        write_atomic(path, _tiff(labels.astype(np.uint32)))
    other.unlink(missing_ok=True)
    return path


def write_image(path: Path, image: NDArray[np.uint8]) -> None:
    """Write ``image`` (H x W x 3 or H x W uint8) as PNG."""
    write_atomic(path, _png(image))


def files_by_stem(folder: Path, suffixes: frozenset[str]) -> dict[str, list[Path]]:
    """Return the files of ``folder`` by stem, sorted; hidden files and other suffixes are left out."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.suffix.lower() in suffixes and not path.name.startswith("."):
            found.setdefault(path.stem, []).append(path)
    return found


def _png(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def _tiff(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, compression="zlib")
    return buffer.getvalue()


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except DECODING_ERRORS as error:
        raise DataError(f"{path} cannot be read ({error}): replace it with an intact file") from error


@contextmanager
def _open(path: Path) -> Iterator[Image.Image]:
    with _open_of_any_size(path) as image:
        check_size(path, image.width * image.height)
        yield image


def _open_of_any_size(path: Path) -> Image.Image:
    # Micrographs are larger than what Pillow takes for an attack, so its limit is replaced by ours.
    with _PILLOWS_LIMIT:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(path)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def check_size(path: Path, pixels: int) -> None:
    """Raise DataError where ``path`` has more than :data:`MAX_PIXELS` pixels."""
    if pixels > MAX_PIXELS:
        raise DataError(
            f"{path} has {pixels / 1e6:.0f} megapixels: cut it into images of at most {MAX_PIXELS // 10**6}"
        )


def _colour_channels(path: Path, pixels: NDArray[Any]) -> tuple[NDArray[Any], bool]:
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    channels = pixels.shape[2]
    if channels not in (1, 2, 3, 4):
        raise DataError(f"{path} has {channels} channels: save it as grey or RGB")
    return pixels[..., : 1 if channels < 3 else 3], channels in (2, 4)


def _to_eight_bit(path: Path, pixels: NDArray[Any], notes: list[str]) -> NDArray[np.uint8]:
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype == bool:
        notes.append("one bit scaled to 0 and 255")
        return pixels.astype(np.uint8) * np.uint8(255)
    if pixels.dtype != np.uint16:
        raise DataError(f"{path} holds {pixels.dtype} pixels: save it with 8 or 16 bit")
    top = max(int(pixels.max()), 1)
    notes.append(f"16 bit scaled so that its largest value {top} becomes 255")
    scaled: NDArray[np.uint8] = np.rint(pixels * np.float32(255 / top)).astype(np.uint8)
    return scaled


def _read_pixels(path: Path) -> tuple[NDArray[Any], list[str]]:
    if path.suffix.lower() in _TIFF_SUFFIXES:
        return _read_tiff(path, expand=True)
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        raise DataError(f"{path} is no image format that is read: save it as PNG, TIFF, JPEG or BMP")
    with _open(path) as image:
        notes = _orientation(image)
        if _is_deep_png(path):
            return imagecodecs.png_decode(path.read_bytes()), notes
        return _read_pillow(image, notes), notes


def _read_pillow(image: Image.Image, notes: list[str]) -> NDArray[Any]:
    if image.mode in {"P", "PA"}:
        notes.append("palette expanded")
        return np.array(image.convert("RGB"))
    if image.mode in {"CMYK", "YCbCr", "LAB", "HSV", "RGBX", "RGBa", "La"}:
        notes.append(f"{image.mode} converted to RGB")
        return np.array(image.convert("RGB"))
    return np.array(image)


def _orientation(image: Image.Image) -> list[str]:
    turned = image.getexif().get(_ORIENTATION_TAG, 1) != 1
    return ["EXIF orientation not applied"] if turned else []


def _is_deep_png(path: Path) -> bool:
    # Pillow drops the low byte of 16-bit colour; the depth stands in the 25th byte of every PNG.
    with path.open("rb") as file:
        head = file.read(25)
    return head.startswith(_PNG_SIGNATURE) and head[24] == 16


def _read_tiff(path: Path, *, expand: bool) -> tuple[NDArray[Any], list[str]]:
    with tifffile.TiffFile(path) as file:
        page = _only_page(path, file)
        pixels = page.asarray()
        if not expand:
            return pixels, []
        return _expand_tiff(path, page, pixels)


def _only_page(path: Path, file: tifffile.TiffFile) -> Any:
    if len(file.pages) != 1:
        raise DataError(f"{path} has {len(file.pages)} pages: save each as a file of its own")
    page = file.pages[0]
    check_size(path, page.imagelength * page.imagewidth)
    if page.planarconfig == tifffile.PLANARCONFIG.SEPARATE and page.samplesperpixel > 1:
        raise DataError(f"{path} stores its channels one after the other: save it as height x width x channels")
    if page.ndim > 3 or (page.ndim == 3 and page.shape[2] > 4):
        raise DataError(f"{path} has shape {page.shape}: save it as height x width x channels")
    return page


def _expand_tiff(path: Path, page: Any, pixels: NDArray[Any]) -> tuple[NDArray[Any], list[str]]:
    kind = tifffile.PHOTOMETRIC
    if page.photometric == kind.PALETTE:
        return (page.colormap.T >> 8).astype(np.uint8)[pixels], ["palette expanded"]
    if page.photometric == kind.MINISWHITE:
        return np.invert(pixels), ["inverted, as the file says that 0 is white"]
    if page.photometric in {kind.SEPARATED, kind.CIELAB}:
        raise DataError(f"{path} is {kind(page.photometric).name}, not RGB: save it as grey or RGB")
    return pixels, []


def _read_label_array(path: Path) -> NDArray[Any]:
    suffix = path.suffix.lower()
    if suffix not in LABEL_SUFFIXES:
        raise LabelError(f"{path} is no label format that is read: save it as PNG, TIFF or NPY")
    with _naming(path):
        if suffix == ".npy":
            return _read_npy(path)
        if suffix in _TIFF_SUFFIXES:
            return _read_tiff(path, expand=False)[0]
        with _open(path) as image:
            return imagecodecs.png_decode(path.read_bytes()) if _is_deep_png(path) else np.array(image)


def _read_npy(path: Path) -> NDArray[Any]:
    loaded = np.load(path, allow_pickle=False)
    if not isinstance(loaded, np.ndarray):
        raise LabelError(f"{path} is an archive of arrays: save one array with numpy.save")
    return loaded
