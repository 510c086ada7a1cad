"""The paper's tables and figures: numbers from saved label maps, by SciPy's and pandas' own functions."""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import SHARED, make_squares
from numpy.typing import NDArray
from PIL import Image
from pylatexenc.latexwalker import LatexMacroNode, LatexNode, LatexSpecialsNode, LatexWalker
from rich.console import Console
from scipy import ndimage
from skimage.morphology import skeletonize
from skimage.segmentation import expand_labels
from test_latex import environments, needs_pdflatex, typeset

from crystalbench.cli import main
from crystalbench.data import open_dataset, read_labels, write_image, write_labels, write_split
from crystalbench.evaluation import cldice
from crystalbench.evaluation._errors import crystal_errors
from crystalbench.experiment import Request, Run, plan, reporter
from crystalbench.paper import METHODS, Results, Study, plan_study, read_results, write_paper
from crystalbench.paper._cases import pick_cases, zoom_window
from crystalbench.paper._formats import to_csv, to_latex, to_markdown
from crystalbench.paper._reported import CLDICE_OF_BOUNDARY, TABLE_1, TABLE_2, TABLE_3, TABLE_3_TRUTH
from crystalbench.paper._scatter import correlation, scatter
from crystalbench.paper._study import FUSIONS, Fusion
from crystalbench.paper._tables import TITLES, tables

Map = NDArray[np.integer[Any]]

# A method in whose labels crystals are merged, split, missed and spurious; its network is a number.
FAULTY = """
import numpy as np
from safetensors.numpy import load_file, save_file
from scipy import ndimage
from crystalbench import Component, MethodInfo, Parameters, Segmenter

class Decode(Parameters):
    above: float = 0.0
    grow: int = 0
    cut: int = 0
    fail: bool = False

class Faulty(Segmenter):
    info = MethodInfo(name="faulty", title="Faulty_1", licence="MIT", parameters=1, input_size=64)
    components = (Component("cp", Parameters),)
    Decode = Decode

    def fit(self, component, train, val, context):
        level = np.mean([sample.image.mean() for sample in train])
        context.initial_weights("random")
        save_file({"level": np.array([level])}, context.folder / "checkpoint.safetensors")

    def load(self, checkpoints, device):
        self.level = load_file(checkpoints["cp"])["level"][0]

    def predict(self, image):
        decode = self.decode_parameters
        if decode.fail:
            raise ValueError("not today")
        bright = image[..., 0] > self.level + decode.above
        if decode.grow:
            bright = ndimage.binary_dilation(bright, iterations=decode.grow)
        if decode.cut:
            bright[:, :: decode.cut] = False
        return ndimage.label(bright)[0].astype(np.int32)
"""
SETTINGS = {
    "sima": (),
    "cellpose": ("decode.above=40",),
    "boundary": ("decode.grow=1", "decode.cut=13"),
    "average": ("decode.grow=2",),
}


def make_classes(folder: Path) -> Path:
    """Fifteen images of 64 x 80 px, five of each difficulty class; three each are tested."""
    rng = np.random.default_rng(3)
    squares = {1: [(4, 14), (20, 30)], 2: [(2, 42), (50, 53)], 3: [(2, 42), (48, 60)]}
    assignment = {}
    for number in range(15):
        kind, labels = number % 3 + 1, np.zeros((64, 80), np.int32)
        for row, (top, bottom) in enumerate(squares[kind]):
            for column, left in enumerate(range(3, 80 - (bottom - top), bottom - top + 3)):
                labels[top : bottom - rng.integers(2), left : left + bottom - top] = 10 * row + column + 1
        bright = np.append(0, rng.integers(60, 200, labels.max()))[labels]
        bright[61:64, 60:66] = 200
        image = bright[..., None] + rng.integers(10, 40, (64, 80, 3))
        write_image(folder / "images" / f"m{number:02}.png", image.astype(np.uint8))
        write_labels(folder / "labels", f"m{number:02}", labels)
        assignment[f"m{number:02}"] = ("train", "val", "test", "test", "test")[number // 3]
    (folder / "dataset.yaml").write_text("class_px: 24\nname: classes\n")
    write_split(folder, "fixed", assignment)
    return folder


@dataclass(frozen=True)
class Written:
    """A study that was run, and the page that was written of it."""

    results: Results
    folder: Path

    @property
    def numbers(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads((self.folder / "sources.json").read_text())["numbers"]
        return found

    def csv(self, name: str) -> list[dict[str, str]]:
        with (self.folder / f"{name}.csv").open(newline="") as file:
            return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """A study whose methods are one small one in several settings, under the names of the paper's."""
    folder = tmp_path_factory.mktemp("paper")
    adapter = folder / "faulty.py"
    adapter.write_text(FAULTY)
    request = Request(
        methods=("faulty",),
        dataset=open_dataset(make_classes(folder / "classes")),
        adapters=(str(adapter),),
        threads=1,
        out=folder / "runs",
    )
    planned = {name: plan(replace(request, settings=settings), lambda _: None) for name, settings in SETTINGS.items()}
    methods = {name: planned[name] for name in ("sima", "cellpose", "boundary")}
    rows = {"average": planned["average"], "attention": planned["sima"]}
    fusions = {fusion: rows[fusion.kind] for fusion in FUSIONS if fusion != Fusion(4, "average")}
    study = Study(request, methods, fusions)
    records = Run(study.experiments, reporter(Console(quiet=True)))()
    assert [record.status for record in records] == ["ok"] * 4
    results = read_results(study)
    page = write_paper(results, folder / "runs" / "classes" / "paper", lambda done, total: None)
    return Written(results, page.parent)


def by_hand(truth: Map, prediction: Map) -> dict[str, float]:
    """PQ, AJI and ACS of one image, from pandas' table of the labels."""
    pixels = pd.crosstab(truth.ravel(), prediction.ravel())
    areas, found = pixels.sum(axis=1).drop(0), pixels.sum(axis=0).drop(0)
    shared = pixels.drop(index=0, columns=0)
    union = -shared.sub(areas, axis=0).sub(found, axis=1)
    iou = shared / union
    best = iou.idxmax(axis=1)
    overlapping = iou.max(axis=1) > 0
    pairs = list(best[overlapping].items())
    c = sum(shared.loc[pair] for pair in pairs)
    w = sum(union.loc[pair] for pair in pairs) + areas[~overlapping].sum() + found.drop(set(best[overlapping])).sum()
    acs, acs_truth = (2 * np.sqrt(sizes / np.pi).mean() for sizes in (found, areas))
    return {
        "pq_percent": 100 * iou.where(iou > 0.5).sum().sum() / ((len(areas) + len(found)) / 2),
        "aji_percent": 100 * c / w,
        "acs_px": acs,
        "acs_truth_px": acs_truth,
        "mae_acs_px": abs(acs - acs_truth),
        "mre_acs_percent": 100 * abs(acs - acs_truth) / acs_truth,
    }


def class_by_hand(truth: Map) -> int:
    lengths = pd.Series([max(s.stop - s.start for s in box) for box in ndimage.find_objects(truth) if box])
    return 1 if lengths.max() < 24 else 2 if lengths.min() / lengths.max() < 0.1 else 3


def maps(written: Written, key: str) -> Iterator[tuple[str, Map, Map]]:
    """The truth and the saved label map of each test image of a record."""
    links = json.loads((written.folder / "sources.json").read_text())["records"]
    record = written.folder / links[key]
    assert json.loads(record.read_text())["key"] == key
    for sample in written.results.study.request.dataset.split().test:
        yield sample.name, sample.label, read_labels(record.parent / "labels" / f"{sample.name}.png")


def test_every_number_of_the_tables_follows_from_the_saved_label_maps(written: Written) -> None:
    frames: dict[str, Any] = {}
    for number in written.numbers:
        (key,) = number["records"]
        if key not in frames:
            images = [{**by_hand(g, p), "class": class_by_hand(g)} for _, g, p in maps(written, key)]
            frames[key] = pd.DataFrame(images)
    assert all(frame["class"].value_counts().to_dict() == {1: 3, 2: 3, 3: 3} for frame in frames.values())
    checked = []
    for number in written.numbers:
        column = number["column"].partition(".")[0]
        frame = frames[number["records"][0]]
        if column not in frame:
            continue
        if number["table"] == "table3":
            frame = frame[frame["class"] == int(number["line"][0])]
        assert number["value"] == pytest.approx(frame[column].mean(), rel=1e-9), number
        if number["std"] is not None:
            assert number["std"] == pytest.approx(frame[column].std(), rel=1e-9), number
        checked.append((number["table"], column))
    assert len(checked) == 5 * 2 + 3 * 4 + 3 * 9
    assert all(number["value"] < 100 for number in written.numbers if number["column"].startswith("pq"))


def test_what_is_printed_is_what_was_measured(written: Written) -> None:
    texts = {name: (written.folder / f"{name}.md").read_text() for name in ("table1", "table2", "table3")}
    assert written.numbers
    for number in written.numbers:
        value, std = number["value"], number["std"]
        if number["column"].partition(".")[0].endswith(("percent", "px")) and number["column"] != "input_size_px":
            assert number["printed"] == f"{value:.1f}" + (f" ± {std:.0f}" if std is not None else "")
        assert number["printed"] in texts[number["table"]]
    lines = written.csv("table2")
    assert [line["Models"] for line in lines][:2] == ["Cellpose+SiMA", "Cellpose original"]
    (number,) = [n for n in written.numbers if n["line"] == ["Boundary model"] and n["column"] == "aji_percent"]
    (line,) = [line for line in lines if line["Models"] == "Boundary model"]
    assert (float(line["aji_percent"]), line["aji_percent_records"]) == (number["value"], number["records"][0])
    assert (line["aji_percent_reported"], line["aji_percent_std_reported"]) == ("83.0", "12")


def test_what_was_not_run_is_said_and_has_the_papers_figures_alone(written: Written) -> None:
    (line,) = [line for line in written.csv("table2") if line["Models"].startswith("OneFormer")]
    assert line["Models"] == "OneFormer (not run)"
    assert (line["pq_percent"], line["pq_percent_records"], line["pq_percent_reported"]) == ("", "", "70.8")
    (row,) = [row for row in (written.folder / "table2.md").read_text().splitlines() if "OneFormer" in row]
    assert [cell.strip() for cell in row.split("|")][6:8] == ["-", "*70.8 ± 13*"]
    first = written.csv("table1")
    assert [line["Multi-scale fusion method"] for line in first if not line["pq_percent"]] == ["Average (not run)"]
    multiscale = next(line for line in written.csv("table2") if line["Models"].startswith("Cellpose multi-scale"))
    assert (multiscale["image rescaling"], multiscale["fusion type"]) == ("✓", "average")


def test_the_best_of_what_is_compared_is_bold(written: Written) -> None:
    for table in tables(written.results):
        assert to_markdown(table).splitlines()[0].count("reported on other data") == len(table.columns)
        for index, column in enumerate(table.columns):
            entries = [line.entries[index] for line in table.lines]
            known = [entry for entry in entries if entry.merit is not None]
            if table.name != "table3" and known:
                best = max if column.name.startswith(("pq", "aji")) else min
                assert {e.value for e in entries if e.is_best} == {best(e.value for e in known)}, column.name
            text = to_markdown(table)
            assert all(f"**{column.text(entry)}**" in text for entry in entries if entry.is_best)
    third = written.csv("table3")
    (_, _, table) = tables(written.results)
    places = [column.name for column in table.columns]
    for line, row in zip(table.lines, third, strict=True):
        nearest = min(("cellpose", "sima"), key=lambda m: abs(float(row[f"acs_px.{m}"]) - float(row["acs_truth_px"])))
        bold = {m for m in ("cellpose", "sima") if line.entries[places.index(f"acs_px.{m}")].is_best}
        assert nearest in bold


def test_each_table_is_latex_whose_lines_are_all_of_one_width(written: Written) -> None:
    for table in tables(written.results):
        nodes, _, _ = LatexWalker(to_latex(table), tolerant_parsing=False).get_latex_nodes()
        (tabular,) = [node for node in environments(nodes) if node.environmentname == "tabular"]
        lines = list(_widths(tabular.nodelist))
        assert len(lines) == len(table.lines) + (2 if len({column.group for column in table.columns}) > 1 else 1)
        assert set(lines) == {len(table.labels) + 2 * len(table.columns)}
        assert "on other data" in to_latex(table)
        assert "preset quick; initial weights random; device cpu" in to_latex(table)
        assert to_latex(table).count(r"\textbf{") == sum(e.is_best for line in table.lines for e in line.entries)


@needs_pdflatex
def test_latex_typesets_the_tables(written: Written, tmp_path: Path) -> None:
    typeset("\n".join(map(to_latex, tables(written.results))), "amssymb,booktabs,graphicx", tmp_path)


def _widths(nodes: list[LatexNode]) -> Iterator[int]:
    """Yield how many columns each line of a tabular has."""
    width = 1
    nodes = list(nodes)
    for place, node in enumerate(nodes):
        if isinstance(node, LatexSpecialsNode) and node.specials_chars == "&":
            width += 1
        elif isinstance(node, LatexMacroNode) and node.macroname == "multicolumn":
            spanned = (
                nodes[place + 1] if node.nodeargd is None or not node.nodeargd.argnlist else node.nodeargd.argnlist[0]
            )
            width += int(spanned.nodelist[0].chars) - 1
        elif isinstance(node, LatexMacroNode) and node.macroname == "\\":
            yield width
            width = 1


def cldice_by_hand(truth: Map, prediction: Map) -> float:
    """From scikit-image's skeletons and SciPy's morphology."""
    pen = np.ones((5, 5), bool)
    pen[[0, 0, -1, -1], [0, -1, 0, -1]] = False
    lines = []
    for labels in (truth, prediction):
        grown = expand_labels(labels, 4)
        low = ndimage.minimum_filter(np.where(grown > 0, grown, grown.max() + 1), 3)
        lines.append(skeletonize((grown > 0) & (ndimage.maximum_filter(grown, 3) > low)))
    if not all(line.any() for line in lines):
        return 0.0 if any(line.any() for line in lines) else np.nan
    wide = [ndimage.binary_dilation(line, pen) for line in lines]
    shares = [wide[1][lines[0]].mean(), wide[0][lines[1]].mean()]
    return 2 * shares[0] * shares[1] / sum(shares) if sum(shares) else 0.0


def test_the_points_of_figure_4_follow_from_the_saved_label_maps(written: Written) -> None:
    points = pd.read_csv(written.folder / "figure4.csv")
    assert list(points.columns) == ["method", "image", "pq", "cldice", "acs_relative_error", "record"]
    assert points.groupby("method").size().to_dict() == {"sima": 9, "cellpose": 9, "boundary": 9}
    for key, found in points.groupby("record"):
        for (name, truth, prediction), (_, point) in zip(
            maps(written, str(key)), found.sort_values("image").iterrows(), strict=True
        ):
            expected = by_hand(truth, prediction)
            assert point["image"] == name
            assert point["pq"] == pytest.approx(expected["pq_percent"] / 100)
            assert point["acs_relative_error"] == pytest.approx(expected["mre_acs_percent"] / 100)
            assert point["cldice"] == pytest.approx(cldice_by_hand(truth, prediction), nan_ok=True)
    told = correlation(scatter(written.results, lambda done, total: None))
    ranks = points[["pq", "cldice", "acs_relative_error"]].corr(method="spearman")["acs_relative_error"]
    assert told.rho_pq == pytest.approx(ranks["pq"])
    assert told.rho_cldice == pytest.approx(ranks["cldice"])
    assert (told.n, told.n_cldice) == (27, points["cldice"].notna().sum())
    assert told.cldice == pytest.approx(points["cldice"].mean())
    page = (written.folder / "paper.md").read_text()
    assert re.search(rf"\| all +\| {100 * told.cldice:.1f} ± {100 * told.cldice_std:.0f} ", page)


def test_figures_show_the_images_that_the_rules_pick(written: Written) -> None:
    points = pd.read_csv(written.folder / "figure4.csv").pivot(index="image", columns="method", values="pq")
    truths = {sample.name: sample.label for sample in written.results.study.request.dataset.split().test}
    points["class"] = [class_by_hand(truths[name]) for name in points.index]
    points["n"] = [np.unique(truths[name]).size - 1 for name in points.index]
    methods = ["sima", "cellpose", "boundary"]
    large = points[points["class"] == 2][methods].std(axis=1, ddof=0).idxmax()
    others = points.drop(large)
    many = others[others["n"] >= others["n"].quantile(0.5, interpolation="lower")][methods].mean(axis=1)
    typical = (many - many.quantile(0.5, interpolation="lower")).abs().idxmin()
    cases = pick_cases(written.results)
    assert [case.image for case in cases] == [large, typical]
    page = (written.folder / "paper.md").read_text()
    assert all(case.rule in page.replace("\\", "") for case in cases)
    for number, case in enumerate(cases, start=5):
        lines = written.csv(f"figure{number}")
        assert [line["method"] for line in lines] == methods
        assert {line["image"] for line in lines} == {case.image}
        with Image.open(written.folder / f"figure{number}.png") as picture:
            assert picture.width == 2160
        assert (written.folder / f"figure{number}.pdf").read_bytes().startswith(b"%PDF")


def test_written_again_everything_is_the_same_to_the_byte(written: Written) -> None:
    before = {file.name: file.read_bytes() for file in written.folder.iterdir()}
    (written.folder / "figure6.gif").write_text("of an earlier study")
    write_paper(written.results, written.folder, lambda done, total: None)
    assert {file.name: file.read_bytes() for file in written.folder.iterdir()} == before
    assert len(before) == 3 * 3 + 3 * 3 + 2


def test_the_page_says_what_it_stands_on_and_links_every_record(written: Written) -> None:
    page = (written.folder / "paper.md").read_text()
    assert "Data set classes (test of split fixed)" in page
    assert "preset quick; initial weights random; device cpu" in page
    assert "Mean ± standard deviation over 9 test images" in page
    assert "nothing about such a method follows from its row" in page
    assert "Reported by Neubauer et al. 2024 on other data" in page
    assert "Cellpose original, set otherwise than by the preset: decode.above=40" in page
    links = re.findall(r"\]\(<(.*?)>\)", page)
    assert {(written.folder / link).resolve() for link in links} == {
        folder.resolve() / "record.json" for folder in written.results.folders.values()
    }
    assert all((written.folder / name).is_file() for name in re.findall(r"!\[.*?\]\((.*?)\)", page))


def test_names_with_signs_of_markdown_and_latex_stay_in_their_cells(written: Written) -> None:
    results = replace(written.results, methods={"faulty": written.results.methods["sima"]})
    (_, table, _) = tables(results)
    assert table.lines[-1].labels[0] == "Faulty_1"
    assert "Faulty\\_1" in to_markdown(table)
    assert "Faulty\\_1" in to_latex(table)
    assert "\nFaulty_1,,,,random," in to_csv(table)


# What became of each crystal


def test_each_kind_of_error_is_told() -> None:
    truth, prediction = (np.zeros((20, 40), np.int32) for _ in range(2))
    truth[2:8, 2:8], prediction[2:8, 2:8] = 1, 7  # right
    truth[2:8, 10:16], truth[2:8, 16:22], prediction[2:8, 10:22] = 2, 3, 1  # merged
    truth[10:18, 2:12], prediction[10:18, 2:7], prediction[10:18, 7:12] = 4, 2, 3  # split
    truth[10:14, 20:24] = 9  # missed
    prediction[10:14, 30:34] = 5  # spurious
    errors = crystal_errors(truth, prediction)
    labels = np.array([1, 2, 3, 5, 7])
    told = {name: labels[mask].tolist() for name, mask in errors._asdict().items() if name != "missed"}
    assert told == {"merged": [1], "split": [2, 3], "spurious": [5]}
    assert np.array([1, 2, 3, 4, 9])[errors.missed].tolist() == [9]
    assert not any(mask.any() for mask in crystal_errors(truth, truth))
    assert crystal_errors(truth, np.zeros_like(truth)).missed.all()


def test_a_crystal_that_is_mostly_right_and_swallows_others_is_merged() -> None:
    truth = np.ones((10, 20), np.int32)
    truth[:, 12:16], truth[:, 16:] = 2, 3
    prediction = np.ones_like(truth)
    errors = crystal_errors(truth, prediction)
    assert errors.merged.tolist() == [True]
    assert errors.missed.tolist() == [False] * 3


def test_the_zoom_holds_most_of_what_is_wrong() -> None:
    wrong = np.zeros((300, 200), bool)
    wrong[210:230, 20:40] = True
    other = np.zeros_like(wrong)
    other[0:10, 190:200] = True
    rows, columns = zoom_window([wrong, other])
    assert (rows.stop - rows.start, columns.stop - columns.start) == (100, 100)
    assert wrong[rows, columns].sum() == 400
    assert zoom_window([np.zeros((30, 50), bool)]) == (slice(0, 30), slice(0, 30))


# What is planned


def test_the_rows_of_table_1_stand_on_one_flow_network(squares: Path, tmp_path: Path) -> None:
    settings = ("sima.train.cp.epochs=3", "cellpose-multiscale.train.cp.epochs=7", "sima.decode.min_size=9")
    request = Request(METHODS, open_dataset(squares), threads=1, out=tmp_path, settings=settings)
    study = plan_study(request, lambda _: None)
    assert list(study.methods) == list(METHODS)
    assert list(study.fusions) == list(TABLE_1)
    found = {fusion: experiment for fusion, (experiment,) in study.fusions.items()}
    assert len({experiment.trainings["cp"].key for experiment in found.values()}) == 1
    assert all(experiment.values["train"]["cp"]["epochs"] == 3 for experiment in found.values())
    assert all(experiment.values["decode"]["min_size"] == 9 for experiment in found.values())
    attention = [found[fusion].trainings["attention"].key for fusion in found if fusion.kind == "attention"]
    assert len(set(attention)) == 3
    assert found[Fusion(4, "attention")].key == study.methods["sima"][0].key
    assert {f.n: e.values["infer"]["resize_factors"] for f, e in found.items()} == {
        2: ["input", 1.0],
        3: ["input", "2*input", 1.0],
        4: ["input", 0.5, 0.75, 1.0],
    }
    assert {e.method.info.fusion for f, e in found.items() if f.kind == "average"} == {"average"}
    # Each training and each experiment once: three attention networks, the others' own components and flow network.
    keys = [experiment.key for experiment in study.experiments]
    assert len(keys) == len(set(keys)) == 8 + 5


def test_by_default_the_paper_takes_two_trainings_more_than_run(squares: Path, tmp_path: Path) -> None:
    request = Request(METHODS, open_dataset(squares), threads=1, out=tmp_path)
    study = plan_study(request, lambda _: None)
    known = {t.key for e in plan(request, lambda _: None) for t in e.trainings.values()}
    more = {t.key for e in study.experiments for t in e.trainings.values()} - known
    assert len(more) == 2
    assert study.fusions[Fusion(4, "average")][0].key == study.methods["cellpose-multiscale"][0].key
    assert len(study.experiments) == 8 + 4


# The command


def test_a_method_that_fails_is_shown_as_failed_and_the_others_are_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = tmp_path / "faulty.py"
    adapter.write_text(FAULTY)
    data = make_squares(tmp_path / "squares", 8)
    call = [
        "paper",
        "--data",
        str(data),
        "--threads",
        "1",
        "--out",
        str(tmp_path / "runs"),
        "--to",
        str(tmp_path / "to"),
    ]
    call += ["--method", "faulty", "--adapter", str(adapter), "--method", "truth"]
    assert main([*call, "--dry-run"]) == 0
    assert capsys.readouterr().out.count("test  ") == 2
    assert not (tmp_path / "to").exists()
    assert main([*call, "--set", "faulty.decode.fail=true"]) == 1
    assert capsys.readouterr().out == f"{tmp_path / 'to' / 'paper.md'}\n"
    page = (tmp_path / "to" / "paper.md").read_text()
    assert "Faulty\\_1 (failed: ImageFailed, partial" not in page
    assert "Faulty\\_1 (failed: ImageFailed)" in page
    assert "ValueError: not today" in page
    assert "no crystal found" not in page
    assert "Not computed: sima is not among the methods that were asked for." in page
    assert main(call) == 0
    assert "failed" not in (tmp_path / "to" / "paper.md").read_text()
    capsys.readouterr()
    assert main(call) == 0
    assert capsys.readouterr().err.count("done before") == 3


def test_over_folds_every_image_counts_and_controls_are_in_no_figure(
    squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["paper", "--data", str(squares), "--threads", "1", "--out", str(tmp_path), "--method", "truth"]
    assert main([*call, "--folds", "4", "--jobs", "2"]) == 0
    page = Path(capsys.readouterr().out.strip())
    assert page == tmp_path / "squares" / "paper" / "paper.md"
    text = page.read_text(encoding="utf-8")
    assert "Data set squares (4-fold" in text
    assert "over 8 test images" in text
    assert text.count("Not drawn") == 3
    assert "Latency: not measured" in text
    lines = list(csv.DictReader((page.parent / "table2.csv").open(newline="", encoding="utf-8")))
    assert lines[-1]["Models"] == "Truth (control)"
    assert lines[-1]["pq_percent"] == "100.0"
    assert len(lines[-1]["pq_percent_records"].split()) == 4


def test_images_without_any_crystal_found_are_counted(written: Written) -> None:
    result = written.results.methods["boundary"]
    results = replace(
        written.results,
        methods={"boundary": replace(result, row=result.row.model_copy(update={"n_no_prediction": 2}))},
    )
    (_, table, _) = tables(results)
    assert "Boundary model: no crystal found in 2 images" in " ".join(table.notes)


def test_without_matplotlib_it_says_how_to_install_it_before_any_work(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["paper", "--data", str(squares), "--out", str(tmp_path / "runs")]) == 2
    assert "pip install 'crystalbench[paper]'" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_method_that_does_not_exist_is_a_wrong_call(squares: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["paper", "--data", str(squares), "--method", "simaa"]) == 2
    assert "sima" in capsys.readouterr().err


# What the paper reports


def test_reported_figures_are_those_of_the_papers_text() -> None:
    file = SHARED / "paper" / "neubauer2024_sima.txt"
    if not file.exists():
        pytest.skip("the paper's text is not here")
    plain = re.sub(r"[*$\\]|</?\w+>", "", file.read_text(encoding="utf-8")).replace("pm", "±")
    text = " ".join(re.sub(r" *± *", " ± ", plain).split())
    first = text[text.index("TABLE I COMPARISON") : text.index("TABLE II COMPARISON")]
    printed = re.findall(r"([\d.]+) ± (\d+)", first)[:12]
    assert printed == [(f"{r.mean}", f"{r.std}") for row in TABLE_1.values() for r in (row["pq"], row["mre_acs"])]
    second = text[text.index("TABLE II COMPARISON") :]
    for name, row in zip((TITLES[method] for method in METHODS), TABLE_2.values(), strict=True):
        pattern = r".*?([\d.]+) ± (\d+) ([\d.]+) ± (\d+) ([\d.]+) ([\d.]+) ± (\d+) ([\d.]+)M (\d+) ?2 ([\d.]+)"
        figures = re.search(re.escape(name) + pattern, second)
        assert figures is not None, name
        told = [*row["pq"], *row["aji"], row["mae_acs"].mean, *row["mre_acs"]]
        told += [row[key].mean for key in ("parameters", "input_size", "latency_s")]
        assert [float(figure) for figure in figures.groups()] == told
    for number in TABLE_3_TRUTH:
        line = re.search(rf"^{number}\t(.* ± \d+)$", plain, re.MULTILINE)
        assert line is not None
        old, new = (TABLE_3[number, method] for method in ("cellpose", "sima"))
        told = [old["pq"], new["pq"], TABLE_3_TRUTH[number], old["acs"], new["acs"]]
        told += [old["mae_acs"], new["mae_acs"], old["mre_acs"], new["mre_acs"]]
        assert [float(x) for x in re.findall(r"[\d.]+", line.group(1))] == [x for r in told for x in r if x is not None]
    assert f"{CLDICE_OF_BOUNDARY.mean} ± {CLDICE_OF_BOUNDARY.std}%" in text


def test_cldice_by_hand_is_the_evaluators() -> None:
    truth = np.kron(np.arange(1, 10).reshape(3, 3), np.ones((12, 12), np.int32)).astype(np.int32)
    moved = np.roll(truth, 3, axis=1)
    assert 0 < cldice(truth, moved) < 1
    assert cldice(truth, moved) == pytest.approx(cldice_by_hand(truth, moved))


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_the_flow_methods_on_demo_share_one_flow_network(tmp_path: Path) -> None:
    few = {
        "sima": ["cp.epochs=1", "cp.crops_per_image=1", "attention.epochs=1", "attention.crops_per_image=1"],
        "cellpose": ["cp.epochs=1", "cp.crops_per_image=1", "size.epochs=1"],
        "cellpose-multiscale": ["cp.epochs=1", "cp.crops_per_image=1"],
    }
    call = ["paper", "--data", "demo", "--limit", "4", "--out", str(tmp_path)]
    for method, settings in few.items():
        call += ["--method", method, *(part for s in settings for part in ("--set", f"{method}.train.{s}"))]
    assert main(call) == 0
    trained = {name: len(list(tmp_path.glob(f"train/{name}/*/training.json"))) for name in ("cp", "attention", "size")}
    assert trained == {"cp": 1, "attention": 3, "size": 1}
    first, second, third = (
        list(csv.DictReader((tmp_path / "demo" / "paper" / f"table{n}.csv").open(newline="", encoding="utf-8")))
        for n in (1, 2, 3)
    )
    assert len({line["pq_percent_records"] for line in first}) == 6
    assert second[0]["Models"] == "Cellpose+SiMA (partial, limit 4)"
    assert second[0]["pq_percent_records"] == first[5]["pq_percent_records"]
    assert second[2]["pq_percent_records"] == first[4]["pq_percent_records"]
    assert sum(int(line["Images"]) for line in third) == 4
