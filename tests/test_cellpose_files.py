"""Importing what Cellpose leaves beside its images, and refusing what only looks like it."""

from __future__ import annotations

import io
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from crystalbench._exceptions import DataError
from crystalbench.cli import main
from crystalbench.data import import_dataset, open_dataset, write_image, write_labels
from crystalbench.data._pickles import array_of, read_pickled_dict
from crystalbench.measure._exports import cellpose_seg

TILES = np.kron(np.arange(12).reshape(3, 4), np.ones((10, 10), int))


def make_images(folder: Path, names: str = "abc") -> Path:
    for seed, name in enumerate(names):
        image = np.random.default_rng(seed).integers(0, 256, (*TILES.shape, 3)).astype(np.uint8)
        write_image(folder / f"{name}.png", image)
    return folder


def save_seg(folder: Path, stem: str, masks: Any, **others: Any) -> Path:
    file = folder / f"{stem}_seg.npy"
    np.save(file, {"outlines": np.zeros((2, 2)), "masks": masks, **others})  # type: ignore[arg-type]
    return file


def save_pickle(file: Path, pickled: bytes) -> Path:
    """Write a pickle as NumPy writes one object."""
    np.lib.format.write_array_header_1_0(header := io.BytesIO(), {"descr": "|O", "fortran_order": False, "shape": ()})
    file.write_bytes(header.getvalue() + pickled)
    return file


class Payload:
    def __init__(self, call: Any, *arguments: Any) -> None:
        self.call = (call, arguments)

    def __reduce__(self) -> Any:
        return self.call


class TestImport:
    def test_what_cellpose_itself_writes(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        cellpose_io = pytest.importorskip("cellpose.io", exc_type=ImportError)
        src = make_images(tmp_path / "src")
        images = [np.zeros((*TILES.shape, 3), np.uint8)] * 3
        flow = [np.zeros((*TILES.shape, 3)), np.zeros((2, *TILES.shape)), np.zeros(TILES.shape)]
        names = [str(src / f"{name}.png") for name in "abc"]
        masks = [TILES.astype(np.uint16)] * 3
        cellpose_io.masks_flows_to_seg(images, masks, [flow] * 3, names, diams=np.full(3, 10.0))
        cellpose_io.save_masks(images[:1], masks[:1], [flow], names[:1], png=True, save_flows=True, save_outlines=True)
        assert main(["data", "import", "cellpose", str(src), str(tmp_path / "dst")]) == 0
        printed = capsys.readouterr()
        assert "3 images, 33 crystals" in printed.out
        assert "1 images have _seg.npy and _cp_masks: _seg.npy is taken" in printed.err
        assert all(np.array_equal(sample.label, TILES) for sample in open_dataset(tmp_path / "dst").samples)
        assert main(["data", "verify", str(tmp_path / "dst")]) == 0

    def test_cellpose_itself_reads_what_measure_writes(self, tmp_path: Path) -> None:
        cellpose_io = pytest.importorskip("cellpose.io", exc_type=ImportError)
        src = make_images(tmp_path / "src", "ab")
        (src / "a_seg.npy").write_bytes(cellpose_seg(TILES.astype(np.int32), src / "a.png"))
        (src / "b_seg.npy").write_bytes(cellpose_seg(np.zeros(TILES.shape, np.int32), src / "b.png"))
        images, masks, names = cellpose_io.load_images_labels(str(src), mask_filter="_seg.npy")
        assert names == [str(src / "a.png"), str(src / "b.png")]
        assert [image.shape for image in images] == [(*TILES.shape, 3)] * 2
        assert np.array_equal(masks[0], TILES)
        assert not masks[1].any()

    def test_masks_of_the_command_line_and_of_the_window_together(self, tmp_path: Path) -> None:
        src = make_images(tmp_path / "src", "abcd")
        write_labels(src, "a_cp_masks", TILES)
        write_labels(src, "b_cp_masks", TILES * 70_000)
        write_labels(src, "c_cp_masks", TILES * 0)
        save_seg(src, "c", np.asfortranarray(TILES.astype(">i8")), diameter=np.float64(3.5), filename="c.png")
        save_seg(src, "d", np.zeros(TILES.shape, np.uint32), zdraw=[None, (1, 2.5)], model_path=0)
        (src / "manifest.csv").write_text("image,group,um_per_px\na.png,x,0.5\nb.png,x,\nc.png,y,\nd.png,z,\n")
        report = import_dataset("cellpose", src, tmp_path / "dst")
        samples = open_dataset(tmp_path / "dst").samples
        assert [(s.group, s.um_per_px) for s in samples] == [("x", 0.5), ("x", None), ("y", None), ("z", None)]
        for sample, expected in zip(samples, (TILES, TILES * 70_000, TILES, TILES * 0), strict=True):
            assert np.array_equal(sample.label, expected)
        assert (report.n_images, report.n_crystals) == (4, 33)

    def test_every_file_that_is_wrong_is_named_and_nothing_is_left(self, tmp_path: Path) -> None:
        src = make_images(tmp_path / "src", "abcdef")
        whole = save_seg(src, "a", TILES).read_bytes()
        (src / "a_seg.npy").write_bytes(whole[: len(whole) // 2])
        save_seg(src, "b", TILES[:9])
        save_seg(src, "c", np.stack([TILES, TILES]))
        save_seg(src, "d", TILES / 2)
        np.save(src / "e_seg.npy", TILES)
        np.save(src / "f_seg.npy", {"outlines": TILES})  # type: ignore[arg-type]
        with pytest.raises(DataError) as caught:
            import_dataset("cellpose", src, tmp_path / "dst")
        for problem in (
            "a_seg.npy cannot be read",
            "b_seg.npy is 9 x 40 but its image",
            "c_seg.npy has shape (2, 30, 40)",
            "d_seg.npy holds float64 values",
            "e_seg.npy holds an array of int64",
            "f_seg.npy holds no masks",
        ):
            assert problem in str(caught.value)
        assert [path.name for path in tmp_path.iterdir()] == ["src"]

    def test_images_and_masks_without_partner_are_named(self, tmp_path: Path) -> None:
        src = make_images(tmp_path / "src", "ab")
        save_seg(src, "a", TILES)
        save_seg(src, "lonely", TILES)
        with pytest.raises(DataError, match=r"b\.png has no label map; \S+lonely_seg\.npy has no image"):
            import_dataset("cellpose", src, tmp_path / "dst")
        with pytest.raises(DataError, match=r"absent holds no STEM_seg\.npy"):
            import_dataset("cellpose", tmp_path / "absent", tmp_path / "dst")


class TestStrangers:
    """Pickles that were made to do harm, or that were damaged."""

    @pytest.mark.parametrize(
        ("payload", "named"),
        [
            (Payload(os.system, "touch TARGET"), f"{os.system.__module__}.system"),
            (Payload(eval, "open('TARGET', 'w')"), "builtins.eval"),
            (Payload(Path, "x"), "pathlib.Path"),
            (Payload(np.load, "x"), "numpy.load"),
            (Payload(np.fromfile, "x"), "numpy.fromfile"),
            (pickle.PickleBuffer, "pickle.PickleBuffer"),
        ],
        ids=range(6),
    )
    def test_whatever_is_to_be_called_is_named_and_not_called(
        self, tmp_path: Path, payload: Any, named: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        src, target = make_images(tmp_path / "src", "a"), tmp_path / "target"
        if isinstance(payload, Payload) and isinstance(payload.call[1][0], str):
            payload = Payload(payload.call[0], payload.call[1][0].replace("TARGET", str(target)))
        save_seg(src, "a", TILES, filename=payload)
        assert main(["data", "import", "cellpose", str(src), str(tmp_path / "dst")]) == 2
        error = capsys.readouterr().err
        assert f"a_seg.npy names {named}, which is refused" in error
        assert "Traceback" not in error
        assert [path.name for path in tmp_path.iterdir()] == ["src"]

    @pytest.mark.parametrize(
        "pickled",
        [
            pytest.param(b"(S'touch x'\nios\nsystem\n.", id="the opcode INST"),
            pytest.param(b"\x80\x04(cos\nsystem\n\x8c\x01xo.", id="the opcode OBJ"),
            pytest.param(b"\x80\x02\x82\x01.", id="the opcode EXT1"),
            pytest.param(b"\x80\x05\x96" + struct.pack("<Q", 4) + b"1234.", id="the opcode BYTEARRAY8"),
            pytest.param(
                b"\x80\x04Nr" + struct.pack("<I", 2**31) + b".", id="a place in the memo that takes gigabytes"
            ),
            pytest.param(b"\x80\x04B" + struct.pack("<I", 2**31) + b"x.", id="bytes that are not there"),
            pytest.param(b"\x80\x04N" + b"\x85" * 200_000 + b"}\x94h\x00s.", id="tuples too deep to be hashed"),
            pytest.param(b"\x80\x04" + b"]" * 100, id="no end"),
            pytest.param(b"\x80\x04h\x05.", id="a place in the memo that is empty"),
            pytest.param(b"\x80\x04cnumpy\nndarray\n(N.", id="a call cut short"),
            pytest.param(b"\x80\x04cnumpy\nndarray\n}\x8c\x01xNsb.", id="a state that is none"),
            pytest.param(b"\x80\x04NNR.", id="a call of nothing"),
            pytest.param(b"\x80\x04}.", id="a dict that NumPy did not save"),
            pytest.param(b"", id="nothing"),
            pytest.param(b"\xff", id="no pickle"),
        ],
    )
    def test_damaged_pickles_are_one_error(self, tmp_path: Path, pickled: bytes) -> None:
        file = save_pickle(tmp_path / "x_seg.npy", pickled)
        with pytest.raises(DataError, match=r"x_seg\.npy"):
            read_pickled_dict(file)

    @pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"\x93NUMPY\x01\x00\xff\xff{", b"PK\x03\x04"])
    def test_files_that_are_no_arrays(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "x_seg.npy").write_bytes(content)
        with pytest.raises(DataError, match=r"x_seg\.npy cannot be read"):
            read_pickled_dict(tmp_path / "x_seg.npy")

    def test_a_file_too_large_is_not_read(self, tmp_path: Path) -> None:
        with (tmp_path / "x_seg.npy").open("wb") as file:
            file.truncate(5 * 2**30)
        with pytest.raises(DataError, match=r"x_seg\.npy has 5\.4 GB"):
            read_pickled_dict(tmp_path / "x_seg.npy")

    def test_no_cut_of_a_file_is_more_than_one_error(self, tmp_path: Path) -> None:
        whole = save_seg(tmp_path, "x", TILES[:2, :2], ismanual=np.zeros(3, bool)).read_bytes()
        for length in range(len(whole)):
            (tmp_path / "x_seg.npy").write_bytes(whole[:length])
            with pytest.raises(DataError):
                read_pickled_dict(tmp_path / "x_seg.npy")

    @pytest.mark.filterwarnings("ignore:invalid escape sequence")
    def test_no_changed_byte_of_a_file_is_more_than_one_error(self, tmp_path: Path) -> None:
        file = save_seg(tmp_path, "x", TILES[:2, :2].astype(np.uint16), diameter=np.float32(2))
        whole, rng = file.read_bytes(), np.random.default_rng(0)
        refused = 0
        for _ in range(3000):
            changed = bytearray(whole)
            changed[rng.integers(len(whole))] = rng.integers(256)
            file.write_bytes(changed)
            try:
                array_of(file, read_pickled_dict(file).get("masks"))
            except DataError:
                refused += 1
        assert 0 < refused < 3000

    @pytest.mark.parametrize(
        ("shape", "code", "state"),
        [
            ((2, 2), "i4", b"12"),
            ((2**40, 2**40), "i4", b""),
            ((-2, -2), "i4", bytes(16)),
            ((2, 2), "O8", [1, 2, 3, 4]),
            ((1,) * 99, "i4", bytes(4)),
            ((2.0, 2), "i4", bytes(16)),
        ],
    )
    def test_arrays_that_are_none(self, tmp_path: Path, shape: tuple[int, ...], code: str, state: Any) -> None:
        masks = self.array(shape, code, state)
        file = save_seg(tmp_path, "x", masks)
        content = read_pickled_dict(file)
        with pytest.raises(DataError, match=r"x_seg\.npy"):
            array_of(file, content["masks"])

    @pytest.mark.parametrize("code", ["f1", "b2", "O4", "V4", "i3"])
    def test_kinds_of_numbers_that_are_none(self, tmp_path: Path, code: str) -> None:
        file = save_seg(tmp_path, "x", TILES.astype(np.int32))
        whole = file.read_bytes()
        assert whole.count(b"i4") == 1
        file.write_bytes(whole.replace(b"i4", code.encode()))
        with pytest.raises(DataError, match="masks of another kind"):
            array_of(file, read_pickled_dict(file)["masks"])

    @staticmethod
    def array(shape: tuple[int, ...], code: str, data: Any) -> Any:
        """Return what is pickled as an array that NumPy itself would refuse to make."""
        reconstruct, arguments, _ = np.zeros(1).__reduce__()

        class Forged:
            def __reduce__(self) -> Any:
                return reconstruct, arguments, (1, shape, np.dtype(code), False, data)

        return Forged()


def test_numbers_of_every_kind_are_those_of_numpy(tmp_path: Path) -> None:
    def same(array: NDArray[Any]) -> bool:
        file = save_seg(tmp_path, "x", array)
        read = array_of(file, read_pickled_dict(file)["masks"])
        return read.dtype == array.dtype and np.array_equal(read, array)

    kinds = ["?", "u1", "<u2", ">u2", "i4", ">i8", "f4"]
    assert all(same(np.arange(6).reshape(2, 3).astype(kind)) for kind in kinds)
    assert same(np.asfortranarray(TILES))
    assert same(np.zeros((0, 3), np.uint16))
