from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crystalbench.cli import main
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "simma"], "unknown method 'simma'; did you mean 'sima'"),
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
    arguments = [str(squares) if argument == "SQUARES" else argument for argument in arguments]
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
    shutil.copytree(squares, other)
    out = tmp_path / "runs"
    run = ["run", "--method", "voronoi", "--data", str(other), "--train-data", str(squares), "--out", str(out)]
    assert main(run) == 0
    capsys.readouterr()
    main(["leaderboard", "--runs", str(out), "--format", "json"])
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["dataset"], row["train_dataset"], row["n_images"]) == ("other", "squares", 8)


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
    assert main([*run, "--train-data", str(squares)]) == 0


def test_score_of_folders(squares: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = str(squares / "labels")
    assert main(["score", "--truth", labels, "--prediction", labels, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["summary"]["pq"] == 1


def test_leaderboard_without_records_says_what_to_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["leaderboard", "--runs", str(tmp_path)]) == 2
    assert "crystalbench run" in capsys.readouterr().err


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    command = f"{sys.executable} -m crystalbench methods --json | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_python_m_crystalbench() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "crystalbench", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("crystalbench 0.")
