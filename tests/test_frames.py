"""Frames and figures of the board, and the notebook that shows them."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import matplotlib
import nbformat
import pandas
import pytest
from conftest import make_squares
from nbclient import NotebookClient

from crystalbench import ConfigurationError, Runs, UnknownNameError, figures, load_runs
from crystalbench.cli import main
from crystalbench.config import flatten

ROOT = Path(__file__).parents[1]
PUBLISHED = ROOT / "leaderboard" / "records"
NOTEBOOK = ROOT / "docs" / "board.ipynb"

matplotlib.use("agg")


@pytest.fixture(scope="module")
def published() -> Runs:
    return load_runs(PUBLISHED, data="demo")


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Runs of two seeds on a tiny data set, whose records hold the further scores."""
    folder = tmp_path_factory.mktemp("fresh")
    squares, runs = make_squares(folder / "squares", 8), folder / "runs"
    arguments = ["--method", "watershed", "--seed", "0", "1", "--data", str(squares), "--out", str(runs)]
    assert main(["run", *arguments]) == 0
    return load_runs(str(runs))


def as_json(runs: Path, capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    capsys.readouterr()
    assert main(["leaderboard", "--runs", str(runs), "--format", "json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_board_has_the_values_of_its_json(published: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    rows = as_json(PUBLISHED, capsys)
    assert len(published.board) == len(rows)
    for (_, found), row in zip(published.board.iterrows(), rows, strict=True):
        for name, value in flatten(row):
            assert math.isnan(found[name]) if value is None else found[name] == value, name
    assert published.board["aji_plus"].dtype == float


def test_the_images_of_a_row_have_its_means(published: Runs) -> None:
    means = published.images.groupby("row")[["pq", "aji", "acs_prediction", "acs_relative_error"]].mean()
    rows = published.board[["pq", "aji", "acs", "mre_acs"]]
    assert len(means) == len(rows)
    assert means.to_numpy() == pytest.approx(rows.to_numpy(), abs=1e-12, nan_ok=True)


def test_the_crystals_of_an_image_are_those_that_were_counted(fresh: Runs) -> None:
    images = fresh.images.set_index(["row", "seed", "image"]).sort_index()
    counted = fresh.crystals.groupby(["row", "seed", "image", "kind"]).size().unstack()
    counted = counted.reindex(images.index, columns=["matched", "missed", "spurious"], fill_value=0).fillna(0)
    assert counted.to_numpy().tolist() == images[["tp", "fn", "fp"]].to_numpy().tolist()
    matched = fresh.crystals[fresh.crystals["kind"] == "matched"]
    iou = matched.groupby(["row", "seed", "image"])["iou"].mean()
    assert iou.to_list() == pytest.approx(images.loc[iou.index, "sq"].to_list())
    assert set(fresh.crystals[fresh.crystals["kind"] != "spurious"]["length_px"]) == {10}


def test_seeds_are_averaged_on_the_board_and_apart_in_the_images(fresh: Runs) -> None:
    (pq,) = fresh.board["pq"]
    assert fresh.images.groupby("image")["pq"].mean().mean() == pytest.approx(pq)
    assert sorted(fresh.images["seed"]) == [0] * (len(fresh.images) // 2) + [1] * (len(fresh.images) // 2)


def test_an_image_that_failed_has_no_scores(tmp_path: Path) -> None:
    (record,) = (PUBLISHED / "demo" / "watershed").glob("????????????.json")
    text = json.loads(record.read_text())
    text["images"][0] |= {"status": "failed", "scores": None, "error": "out of memory"}
    (tmp_path / record.name).write_text(json.dumps(text))
    images = load_runs(tmp_path).images
    assert images["pq"].isna().to_list() == [True] + [False] * (len(images) - 1)
    assert images.loc[0, "error"] == "out of memory"


def test_images_and_crystals_say_their_fold(tmp_path: Path, fresh: Runs) -> None:
    (record,) = (PUBLISHED / "demo" / "watershed").glob("????????????.json")
    text = json.loads(record.read_text())
    text["split"] |= {"fold": 2, "folds": 3}
    (tmp_path / record.name).write_text(json.dumps(text))
    runs = load_runs(tmp_path)
    assert set(runs.images["fold"]) == {2}
    assert runs.board["split"].to_list() == ["3-fold"]
    assert fresh.images["fold"].isna().all()
    assert fresh.crystals["fold"].isna().all()


def test_runs_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="nowhere: there is no such folder"):
        load_runs(tmp_path / "nowhere")
    with pytest.raises(UnknownNameError, match="did you mean 'demo'"):
        load_runs(PUBLISHED, data="dem")


def test_without_the_extra_it_is_named(published: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as context:
        context.setitem(sys.modules, "pandas", None)
        with pytest.raises(ConfigurationError, match=r"load_runs needs pandas: pip install 'crystalbench\[notebook\]'"):
            load_runs(PUBLISHED)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigurationError, match=r"figures need matplotlib: pip install 'crystalbench\[notebook\]'"):
        figures.pq_by_method(published.board)


def test_the_package_and_its_figures_start_without_pandas_and_matplotlib() -> None:
    code = (
        "import sys, crystalbench.figures, crystalbench.leaderboard; print({'pandas', 'matplotlib'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_pq_by_method_shows_means_and_intervals_best_on_top(published: Runs) -> None:
    board = published.board
    ax = figures.pq_by_method(board)
    places = {label.get_text(): y for y, label in zip(ax.get_yticks(), ax.get_yticklabels(), strict=True)}
    assert list(places)[::-1] == board["title"].to_list()
    lines = [line.get_xydata().tolist() for line in ax.get_lines()]
    drawn = list(zip(lines[::2], lines[1::2], strict=True))[::-1]
    for (_, row), (interval, (point,)) in zip(board.iterrows(), drawn, strict=True):
        y = places[row["title"]]
        assert interval == [[100 * row["pq_low"], y], [100 * row["pq_high"], y]]
        assert point == [100 * row["pq"], y]


def test_pq_against_latency_shows_what_was_timed(published: Runs) -> None:
    board = published.board.assign(latency_s=published.board["latency_s"].where(published.board["method"] != "sima"))
    ax = figures.pq_against_latency(board)
    drawn = {points.get_label(): tuple(points.get_offsets()[0]) for points in ax.collections}
    rows = board[~board["control"] & (board["method"] != "sima")]
    assert drawn == {row["title"]: (row["latency_s"], 100 * row["pq"]) for _, row in rows.iterrows()}


def test_pq_by_class_shows_three_bars_a_method(published: Runs) -> None:
    rows = published.board[~published.board["control"]]
    ax = figures.pq_by_class(rows)
    assert len(ax.containers) == 3
    for number, bars in enumerate(ax.containers, start=1):
        widths = [bar.get_width() for bar in bars][::-1]
        assert widths == pytest.approx((100 * rows[f"by_class.{number}.pq"]).to_list())
    centres = [bar.get_y() + bar.get_height() / 2 for bars in ax.containers for bar in bars][:: len(rows)]
    assert all(above > below for above, below in pairwise(centres))


def test_predicted_acs_has_a_panel_a_method_and_counts_what_is_undefined(published: Runs) -> None:
    images = published.images.copy()
    lacking = (images["method"] == "sima") & (images["image"] == images["image"].iloc[0])
    images.loc[lacking, "acs_prediction"] = math.nan
    axes = figures.predicted_acs(images)
    titles = [ax.get_title() for ax in axes]
    assert titles == [
        f"{title}\n1 undefined" if title == "Cellpose+SiMA" else title
        for title in published.board[~published.board["control"]]["title"]
    ]
    for ax, (_, panel) in zip(axes, images[~images["control"]].groupby("row"), strict=True):
        points = pandas.DataFrame(ax.collections[0].get_offsets(), columns=["acs_truth", "acs_prediction"])
        expected = panel[["acs_truth", "acs_prediction"]].dropna()
        assert points.dropna().to_numpy().tolist() == expected.to_numpy().tolist()
    assert len(axes[0].figure.axes) == len(axes)


def test_what_cannot_be_compared_is_not_drawn_together(published: Runs) -> None:
    board = published.board
    other = pandas.concat([board, board.assign(dataset="other")])
    with pytest.raises(ConfigurationError, match=r"of 2 boards.*such as board\[board.dataset == 'demo'\]"):
        figures.pq_by_method(other)
    slower = pandas.concat([board, board.assign(latency_conditions="another machine")])
    with pytest.raises(ConfigurationError, match="latencies of different machines or protocols"):
        figures.pq_against_latency(slower)
    for figure in (figures.pq_by_method, figures.pq_by_class, figures.pq_against_latency):
        with pytest.raises(ConfigurationError, match="no rows to draw"):
            figure(board[:0])
    with pytest.raises(ConfigurationError, match="no images with sizes to draw"):
        figures.predicted_acs(published.images[published.images["control"]])


def test_rows_of_one_title_are_told_apart_by_their_settings(published: Runs) -> None:
    board = published.board[:2].assign(title="Cellpose", variant=["", "epochs=3"])
    names = [label.get_text() for label in figures.pq_by_method(board).get_yticklabels()]
    assert names == ["Cellpose (epochs=3)", "Cellpose"]


def test_the_notebook_runs_and_is_stored_without_outputs(published: Runs) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(NOTEBOOK.parent)}}).execute()
    shown = [output for cell in code for output in cell.outputs]
    assert all(output.output_type in ("execute_result", "display_data") for output in shown)
    drawn = [cell for cell in code if any("image/png" in output.get("data", {}) for output in cell.outputs)]
    assert [cell.source.split("figures.")[1].split("(")[0] for cell in drawn] == [
        "pq_by_method",
        "pq_against_latency",
        "pq_by_class",
        "predicted_acs",
    ]
    board = next(output.data["text/plain"] for output in shown if "text/html" in output.get("data", {}))
    assert all(title in board for title in published.board["title"])
