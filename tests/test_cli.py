from __future__ import annotations

import errno
import inspect
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crystalbench import _doctor
from crystalbench.cli import main
from crystalbench.data import open_dataset, write_image, write_labels, write_split
from crystalbench.data._importers import IMPORTERS
from crystalbench.registry import find_methods


def test_help_imports_neither_numpy_nor_torch_nor_an_adapter() -> None:
    code = (
        "import sys; from crystalbench.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'numpy', 'torch', 'pydantic', 'rich', 'scipy', 'skimage'} & set(sys.modules)\n"
        "print(sorted(heavy | {n for n in sys.modules if n.startswith('crystalbench.adapters')}), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert "leaderboard" in done.stdout


def test_methods_json_is_a_list_alone_on_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    keys = {"name", "title", "paper", "licence", "extra", "parameters", "input_size", "needs_gpu", "control"}
    assert all(keys <= set(method) for method in listed)
    assert all(isinstance(method["parameters"], int) for method in listed)
    assert [method["name"] for method in listed] == list(find_methods())


@pytest.mark.parametrize("columns", ["80", None])
def test_methods_never_cuts_what_one_has_to_type(
    columns: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if columns:
        monkeypatch.setenv("COLUMNS", columns)
    else:
        monkeypatch.delenv("COLUMNS", raising=False)
    assert main(["methods"]) == 0
    printed = capsys.readouterr().out
    cells = {cell.strip().removesuffix(" (control)") for cell in printed.split("│")}
    infos = [method.info for method in find_methods().values()]
    assert {info.name for info in infos} <= cells
    assert {info.extra for info in infos if info.extra} <= cells
    assert "…" not in printed
    if columns is None:
        assert {info.title for info in infos} | {info.licence for info in infos} <= cells


def _pretend_imports(monkeypatch: pytest.MonkeyPatch, *missing: str) -> None:
    def library(name: str) -> _doctor.Library:
        return _doctor.Library(name, "1", f"No module named {name!r}" if name in missing else "")

    monkeypatch.setattr(_doctor, "_import_one", library)


def test_doctor_names_what_each_method_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _pretend_imports(monkeypatch, "not_there", "cellpose")
    file = tmp_path / "lacking.py"
    file.write_text("import not_there\nfrom crystalbench import Segmenter\nclass Lacking(Segmenter): ...\n")
    assert main(["doctor", "--adapter", str(file)]) == 1
    printed = capsys.readouterr().out
    assert re.search(r"│ lacking +│ lacks not_there +│", printed)
    assert re.search(r"│ cellpose +│ lacks cellpose; install with: pip install 'crystalbench\[cellpose\]' +│", printed)
    assert re.search(r"│ truth +│ yes +│", printed)


def test_doctor_says_where_a_class_is_wrong_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _pretend_imports(monkeypatch)
    monkeypatch.setenv("COLUMNS", "400")
    file = tmp_path / "wrong.py"
    file.write_text("from crystalbench import Segmenter\nclass Wrong(Segmenter):\n    Decode = dict\n")
    assert main(["doctor", "--adapter", str(file)]) == 1
    printed = capsys.readouterr().out
    assert f"{file}: Wrong: Decode must be a subclass of Parameters" in printed
    assert re.search(r"│ truth +│ yes +│", printed)


def test_help_on_settings_shows_a_list_and_every_option_of_the_importers(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    assert re.search(r"'infer\.\w+=\[\S+,\S+\]'", capsys.readouterr().out)
    with pytest.raises(SystemExit):
        main(["data", "import", "--help"])
    printed = capsys.readouterr().out
    options = {option for importer in IMPORTERS.values() for option in inspect.signature(importer).parameters}
    assert all(f"{option}=" in printed for option in options - {"src", "dst"})
    assert "background=[255,255,255]" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "simma"], "unknown method 'simma'; did you mean 'sima'"),
        (
            ["--method", "otsu", "--adapter", "ADAPTER"],
            "unknown method 'otsu'; the file my_file.py is called 'my_file'",
        ),
        (["--method", "truth", "--data", "dem"], "did you mean 'demo'"),
        (["--method", "truth", "--set", "decode.x=1", "--data", "SQUARES"], "unknown key"),
        (["--method", "truth", "--method", "empty", "--set", "decode.x=1", "--data", "SQUARES"], "name in front"),
        (["--method", "truth", "--adapter", "absent.py", "--data", "SQUARES"], "does not exist"),
        pytest.param(
            ["--method", "truth", "--device", "cuda", "--data", "SQUARES"],
            "torch sees no GPU",
            marks=pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="this machine has a GPU"),
        ),
        (["--method", "truth", "--set", "decode.x=[1", "--data", "SQUARES"], "cannot be read as YAML"),
    ],
)
def test_a_wrong_call_is_one_line_and_status_2(
    arguments: list[str], message: str, squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = tmp_path / "my_file.py"
    adapter.touch()
    places = {"SQUARES": str(squares), "ADAPTER": str(adapter)}
    arguments = [places.get(argument, argument) for argument in arguments]
    assert main(["run", *arguments, "--out", str(tmp_path / "runs")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_controls_score_1_and_0(squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "runs"
    run = ["run", "--method", "truth", "--method", "empty", "--data", str(squares), "--out", str(out)]
    assert main(run) == 0
    assert "overlays of truth" in capsys.readouterr().out
    assert main(["leaderboard", "--runs", str(out), "--format", "json"]) == 0
    rows = {row["method"]: row for row in json.loads(capsys.readouterr().out)}
    assert (rows["truth"]["pq"], rows["truth"]["aji"], rows["truth"]["mae_acs"], rows["truth"]["mre_acs"]) == (
        1,
        1,
        0,
        0,
    )
    assert (rows["empty"]["pq"], rows["empty"]["aji"], rows["empty"]["mre_acs"]) == (0, 0, 1)
    assert rows["truth"]["rank"] is None
    further = ("aji_plus", "splits", "merges", "dg", "pq_by_length", "recall_by_length")
    assert [rows["truth"][name] for name in further] == [1, 0, 0, 0, {"8": 1}, {"8": 1}]
    assert [rows["empty"][name] for name in further] == [0, 0, 0, None, {"8": 0}, {"8": 0}]


def test_dry_run_says_what_would_be_done_and_does_nothing(
    squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "runs"
    run = ["run", "--method", "voronoi", "--method", "truth", "--data", str(squares), "--out", str(out), "--dry-run"]
    assert main(run) == 0
    printed = capsys.readouterr().out
    assert re.search("train count +to do", printed)
    assert "test  truth" in printed
    assert not out.exists()
    assert main(run[:-1]) == 0
    for flags, state in (([], "done"), (["--retrain"], "to do")):
        capsys.readouterr()
        main([*run, *flags])
        assert re.search(f"train count +{state}", capsys.readouterr().out)


def test_train_data_trains_on_one_set_and_tests_on_all_of_another(
    squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    for sample in open_dataset(squares).samples:
        write_image(other / "images" / f"{sample.name}.png", 255 - sample.image)
        write_labels(other / "labels", sample.name, sample.label)
    out = tmp_path / "runs"
    run = ["run", "--method", "voronoi", "--data", str(other), "--train-data", str(squares), "--out", str(out)]
    assert main(run) == 0
    capsys.readouterr()
    main(["leaderboard", "--runs", str(out), "--format", "json"])
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["dataset"], row["train_dataset"], row["n_images"]) == ("other", "squares", 8)


def test_train_data_that_holds_test_images_is_refused(
    squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    shutil.copytree(squares, other)
    split = open_dataset(squares).split()
    assert main(["run", "--method", "voronoi", "--data", str(other), "--train-data", str(squares)]) == 2
    error = capsys.readouterr().err
    assert f"trains or validates on {len(split.train) + len(split.val)} images that --data tests" in error


BAD = ("truncated", "shape", "float", "channels")


def _spoil(folder: Path) -> None:
    """One image for each way in which files of people are odd."""
    image = folder / "images" / "square1.png"
    image.rename(folder / "images" / "truncated.png")
    (folder / "labels" / "square1.png").rename(folder / "labels" / "truncated.png")
    content = (folder / "images" / "truncated.png").read_bytes()
    (folder / "images" / "truncated.png").write_bytes(content[: len(content) // 2])
    for number, name in ((2, "shape"), (3, "float"), (4, "zero"), (5, "channels"), (6, "deep"), (7, "grey")):
        for kind in ("images", "labels"):
            (folder / kind / f"square{number}.png").rename(folder / kind / f"{name}.png")
    Image.fromarray(np.ones((9, 9), np.uint8)).save(folder / "labels" / "shape.png")
    (folder / "labels" / "float.png").unlink()
    np.save(folder / "labels" / "float.npy", np.ones((48, 64)))
    Image.fromarray(np.zeros((48, 64), np.uint8)).save(folder / "labels" / "zero.png")
    Image.fromarray(np.ones((48, 64, 3), np.uint8)).save(folder / "labels" / "channels.png")
    Image.fromarray((np.arange(48 * 64).reshape(48, 64) * 20).astype(np.uint16)).save(folder / "images" / "deep.png")
    Image.fromarray(np.full((48, 64), 99, np.uint8)).save(folder / "images" / "grey.png")


def test_verify_names_every_bad_file_at_once(squares: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _spoil(squares)
    assert main(["data", "verify", str(squares)]) == 2
    lines = capsys.readouterr().out.splitlines()
    errors = [line for line in lines if line.startswith("error")]
    for name in BAD:
        assert sum(f"{name}." in line for line in errors) == 1, name
    assert len(errors) == len(BAD)
    for name in ("zero", "deep", "grey"):
        assert any(f"{name}." in line for line in lines if line.startswith("warning")), name


def test_run_refuses_bad_files_in_one_error_and_takes_the_odd_ones(
    squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _spoil(squares)
    run = ["run", "--method", "truth", "--data", str(squares), "--out", str(tmp_path / "runs")]
    assert main(run) == 2
    error = capsys.readouterr().err
    assert all(f"{name}." in error for name in BAD)
    assert not (tmp_path / "runs").exists()
    for name in BAD:
        for file in (*squares.glob(f"images/{name}.*"), *squares.glob(f"labels/{name}.*")):
            file.unlink()
    odd = ("zero", "deep", "grey")
    write_split(squares, "fixed", {**{name: ["test"] for name in odd}, "square8": ["train", "val"]})
    assert main(run) == 0


def test_score_of_folders(squares: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = str(squares / "labels")
    assert main(["score", "--truth", labels, "--prediction", labels, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)["summary"]
    assert summary["pq"] == summary["aji_plus"] == 1
    assert summary["splits"] == summary["merges"] == summary["dg"] == 0
    assert summary["recall_by_length"] == {"8": 1}


def test_leaderboard_without_records_says_what_to_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["leaderboard", "--runs", str(tmp_path)]) == 2
    assert "crystalbench run" in capsys.readouterr().err


def test_a_path_that_cannot_be_written_is_named_and_is_a_wrong_call(
    squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, folder, runs = tmp_path / "file", tmp_path / "folder", tmp_path / "runs"
    file.touch()
    folder.mkdir()
    run = ["run", "--method", "truth", "--data", str(squares), "--out"]
    assert main([*run, str(file)]) == 2
    assert f"crystalbench: {file}" in capsys.readouterr().err
    assert main([*run, str(runs)]) == 0
    for out, message in ((folder, f"{folder}: Is a directory"), (file / "board.md", f"{file}: File exists")):
        capsys.readouterr()
        assert main(["leaderboard", "--runs", str(runs), "--out", str(out)]) == 2
        assert capsys.readouterr().err == f"crystalbench: {message}\n"


@pytest.mark.parametrize(
    ("arguments", "function", "number", "again"),
    [
        (["run", "--method", "truth", "--data", "SQUARES"], "crystalbench.experiment.plan", errno.ENOSPC, True),
        (["data", "make", "demo"], "crystalbench.data.make_dataset", errno.EDQUOT, True),
        (["data", "import", "labels", "a", "b"], "crystalbench.data.import_dataset", errno.EIO, True),
        (["data", "make", "demo"], "crystalbench.data.make_dataset", errno.EROFS, False),
        (["leaderboard", "--out", "board.md"], "crystalbench.leaderboard.leaderboard", errno.ENOSPC, False),
    ],
)
def test_the_same_command_again_is_advised_where_it_helps(
    arguments: list[str],
    function: str,
    number: int,
    again: bool,
    squares: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, "the disk fails")

    monkeypatch.setattr(function, fail)
    assert main([str(squares) if argument == "SQUARES" else argument for argument in arguments]) == 1
    error = capsys.readouterr().err
    assert "the disk fails" in error
    assert ("run the same command again" in error) is again


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    command = f"{sys.executable} -m crystalbench methods --json | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_python_m_crystalbench() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "crystalbench", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("crystalbench 0.")
