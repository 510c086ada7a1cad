"""K-fold studies of a small method of our own, through the command line, and their one row."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import make_squares
from scipy import stats
from test_leaderboard import CLOSE, EXACT, FAR, TRUTHS, image_records, record

from crystalbench.cli import main
from crystalbench.data import find_dataset, keep_folds, make_dataset, open_dataset, read_labels
from crystalbench.experiment import Record, Request, plan
from crystalbench.leaderboard import Row, load_records, rows

ADAPTER = """
import json
import numpy as np
from safetensors.numpy import save_file
from skimage.measure import label
from crystalbench import Component, MethodInfo, Parameters, Segmenter

class Decode(Parameters):
    rest: int = -1

class Picky(Segmenter):
    info = MethodInfo(name="picky", title="Picky", licence="MIT")
    components = (Component("net", Parameters),)
    Decode = Decode

    def fit(self, component, train, val, context):
        names = {"train": [s.name for s in train], "val": [s.name for s in val]}
        (context.folder / "names.json").write_text(json.dumps(names))
        save_file({"net": np.zeros(1)}, context.folder / "checkpoint.safetensors")

    def predict(self, image):
        found = label(image[..., 0] > 120, connectivity=1).astype(np.int32)
        return found if found.max() % 3 == self.decode_parameters.rest else np.where(found == 1, found, 0)
"""
"""Finds all crystals of every third image alone, those of a ``rest``, and one crystal of the others."""


def expected_pq(n: int, rest: int) -> float:
    """PQ of an image with ``n`` crystals, where one or all are found to the pixel."""
    return 1.0 if n % 3 == rest else 2 / (n + 1)


class Study:
    """Twelve images in six groups, an adapter, and what was run on them."""

    def __init__(self, folder: Path) -> None:
        self.adapter = folder / "picky.py"
        self.adapter.write_text(ADAPTER)
        settings = {"method": "picky", "search": {"decode": {"rest": [0, 1, 2]}}, "presets": {"quick": {}}}
        self.adapter.with_suffix(".yaml").write_text(yaml.safe_dump(settings))
        self.data = make_squares(folder / "squares", 12)
        with (self.data / "manifest.csv").open("w") as file:
            writer = csv.writer(file)
            writer.writerow(["image", "group"])
            writer.writerows([f"square{n}.png", f"pair{(n + 1) // 2}"] for n in range(1, 13))
        self.file = self.data / "splits" / "3-fold.json"
        self.out = folder / "runs"

    def call(self, verb: str, *extra: str) -> int:
        common = ["--method", "picky", "--adapter", str(self.adapter), "--data", str(self.data)]
        return main([verb, *common, "--out", str(self.out), "--threads", "1", *extra])

    @property
    def records(self) -> list[Record]:
        return load_records([self.out])

    @property
    def rows(self) -> tuple[Row, Row]:
        """The one tuned once, and the nested one."""
        once, nested = sorted(rows(self.records), key=lambda row: row.nested)
        return once, nested

    def of(self, *, nested: bool) -> dict[int | None, Record]:
        """The records of one of the two by fold."""
        return {one.split.fold: one for one in self.records if bool(one.nested) == nested}

    def folder(self, one: Record) -> Path:
        return self.out / "squares" / "picky" / one.key[:12]

    @property
    def folds(self) -> dict[str, int]:
        """The fold of each image, from the file."""
        return {name: image["fold"] for name, image in json.loads(self.file.read_text())["images"].items()}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what is remembered of checked data sets away from the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("CRYSTALBENCH_DATA", os.environ.get("CRYSTALBENCH_DATA") or str(find_dataset("demo").root.parent))
        yield


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Three folds with the parameters that one search chose, then with those of one in each fold."""
    made = Study(tmp_path_factory.mktemp("study"))
    assert made.call("tune") == 0
    assert made.call("run", "--folds", "3", "--tuned") == 0
    assert made.call("tune", "--folds", "3") == 0
    assert made.call("run", "--folds", "3", "--nested") == 0
    return made


@pytest.fixture
def fresh(tmp_path: Path) -> Study:
    return Study(tmp_path)


def test_every_image_is_tested_once_and_groups_stay_whole(study: Study) -> None:
    folds = study.folds
    assert set(folds) == {f"square{n}" for n in range(1, 13)}
    assert all(folds[f"square{n}"] == folds[f"square{n + 1}"] for n in range(1, 13, 2))
    assert sorted((one.split.fold, one.split.folds) for one in study.records) == [(f, 3) for f in (1, 1, 2, 2, 3, 3)]
    assert {(one.split.name, one.split.subset) for one in study.records} == {("3-fold", "test")}
    assert len({one.split.sha256 for one in study.records}) == 1
    assert len({one.key for one in study.records}) == 6
    for one in study.records:
        assert {image.image for image in one.images} == {n for n, fold in folds.items() if fold == one.split.fold}


def test_the_next_fold_validates_and_the_rest_trains(study: Study) -> None:
    for one in study.records:
        assert one.split.fold is not None
        folder = study.out / "train" / "net" / one.trainings["net"].key[:12]
        names = json.loads((folder / "names.json").read_text())
        validating, training = (one.split.fold % 3 + 1, (one.split.fold + 1) % 3 + 1)
        assert set(names["val"]) == {name for name, fold in study.folds.items() if fold == validating}
        assert set(names["train"]) == {name for name, fold in study.folds.items() if fold == training}
    # Three of the folds, one of the search on the fixed split.
    assert len(list((study.out / "train" / "net").iterdir())) == 4


def literal_pq(truth: np.ndarray, prediction: np.ndarray) -> tuple[float, int]:
    """Sum of IoU over matches, and number of crystals in both, from masks."""
    g, p = ([labels == i for i in np.unique(labels[labels > 0])] for labels in (truth, prediction))
    iou = np.array([[(a & b).sum() / (a | b).sum() for b in p] for a in g])
    return float(iou[iou > 0.5].sum()), len(g) + len(p)


def test_the_row_is_what_numpy_makes_of_all_label_maps(study: Study) -> None:
    row, _ = study.rows
    found: dict[str, tuple[float, int, int, float]] = {}
    for file in study.out.glob("squares/picky/*/record.json"):
        told = json.loads(file.read_text())
        if told["nested"] is None:
            for image in told["images"]:
                name = image["image"]
                maps = (read_labels(at / "labels" / f"{name}.png") for at in (study.data, file.parent))
                found[name] = (*literal_pq(*maps), told["split"]["fold"], image["seconds"])
    iou, crystals, fold, seconds = (np.array(column) for column in zip(*found.values(), strict=True))
    pq = 2 * iou / crystals
    rest = row.settings["decode"]["rest"]
    assert sorted(pq) == pytest.approx(sorted(expected_pq(n, rest) for n in range(1, 13)))
    assert (row.n_images, row.n_failed, row.partial, row.status, row.seeds) == (12, 0, False, "ok", [0])
    assert row.split == row.split_name == "3-fold"
    assert row.pq == pytest.approx(pq.mean(), abs=1e-12)
    assert row.pq_std == pytest.approx(pq.std(ddof=1), abs=1e-12)
    assert row.pq_pooled == pytest.approx(2 * iou.sum() / crystals.sum(), abs=1e-12)
    assert row.latency_s == pytest.approx(seconds.mean())
    assert set(row.by_fold) == {"1", "2", "3"}
    for number, scores in row.by_fold.items():
        inside = fold == int(number)
        assert (scores.n, scores.pq) == (inside.sum(), pytest.approx(pq[inside].mean(), abs=1e-12))
    assert row.by_class["1"].n == 12
    assert row.pq_low < row.pq < row.pq_high


def test_comparisons_are_over_the_images_of_all_folds(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["leaderboard", "--runs", str(study.out), "--significance", "--format", "json"]) == 0
    compared = json.loads(capsys.readouterr().out)
    (pair,) = compared
    images = {tuple(row.key): row.images for row in study.rows}
    a, b = (images[tuple(pair[key])] for key in ("key_a", "key_b"))
    differences = np.round([a[name].pq - b[name].pq for name in sorted(a)], 12)
    assert (pair["split"], pair["n"], len(differences)) == ("3-fold", 12, 12)
    assert pair["p"] == pytest.approx(stats.wilcoxon(differences).pvalue)
    assert pair["mean_difference"] == pytest.approx(differences.mean())


def test_tuned_once_says_so(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    tuned = yaml.safe_load((study.out / "squares/picky/tuned.yaml").read_text())
    assert (tuned["split"], tuned["fold"]) == ("fixed", None)
    rest = tuned["overrides"]["decode"]["rest"]
    row, _ = study.rows
    assert (row.nested, row.variant) == (False, f"decode.rest={rest}")
    assert row.tuning
    assert row.tuning.points == 3
    assert row.pq == pytest.approx(np.mean([expected_pq(n, rest) for n in range(1, 13)]))
    (warning,) = row.warnings
    assert "tuned once, on the fixed split" in warning
    assert main(["leaderboard", "--runs", str(study.out)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert f"Picky (decode.rest={rest}): warning: {warning}" in printed
    means = ", ".join(f"fold {fold} {100 * scores.pq:.1f}" for fold, scores in row.by_fold.items() if scores.pq)
    assert f"Picky (decode.rest={rest}): mean PQ % of {means}" in printed


def test_nested_tunes_each_fold_on_its_own_validation_images(study: Study) -> None:
    _, row = study.rows
    nested = study.of(nested=True)
    chosen = {}
    for fold in (1, 2, 3):
        validated = [int(name.removeprefix("square")) for name, f in study.folds.items() if f == fold % 3 + 1]
        means = {rest: np.mean([expected_pq(n, rest) for n in validated]) for rest in (0, 1, 2)}
        chosen[fold] = max(means, key=lambda rest: means[rest])
    assert {fold: one.parameters["decode"]["rest"] for fold, one in nested.items()} == chosen
    assert len(set(chosen.values())) > 1
    tested = [expected_pq(int(name.removeprefix("square")), chosen[fold]) for name, fold in study.folds.items()]
    assert row.pq == pytest.approx(np.mean(tested))
    assert (row.n_images, row.partial, row.nested, row.warnings) == (12, False, True, [])
    assert row.variant == "tuned in each fold"
    costs = [one.tuning for one in nested.values() if one.tuning]
    assert row.tuning
    assert row.tuning.points == sum(cost.points for cost in costs) == 9
    assert row.tuning.device_s == pytest.approx(sum(cost.device_s for cost in costs))
    assert (row.settings["decode"], row.changes) == ({}, {})


def test_the_same_command_again_does_nothing(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    before = {file: file.read_bytes() for file in study.out.rglob("*.json")}
    assert study.call("run", "--folds", "3", "--nested") == 0
    printed = capsys.readouterr()
    assert printed.err.count("done before") == 6
    assert "squares (3-fold)" in printed.out
    assert {file: file.read_bytes() for file in study.out.rglob("*.json")} == before


def test_dry_run_counts_and_writes_nothing(fresh: Study, capsys: pytest.CaptureFixture[str]) -> None:
    assert fresh.call("run", "--folds", "3", "--seed", "0", "1", "--dry-run") == 0
    printed = capsys.readouterr().out
    assert "in all: 6 trainings, 6 tests of 24 images" in printed
    assert "4 images, fold 2 of 3" in printed
    assert fresh.call("tune", "--folds", "3", "--dry-run") == 0
    assert capsys.readouterr().out.count("in all: 1 trainings, 3 points") == 3
    assert not fresh.file.exists()
    assert not fresh.out.exists()


def test_a_missing_fold_makes_the_row_partial(study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(study.out / "squares", tmp_path / "squares")
    shutil.rmtree(tmp_path / study.folder(study.of(nested=False)[2]).relative_to(study.out))
    row = next(row for row in rows(load_records([tmp_path])) if not row.nested)
    assert (row.n_images, row.n_failed, row.partial, row.rank) == (8, 0, True, None)
    assert row.warnings[0] == "seed 0 lacks fold 2 of 3"
    assert main(["leaderboard", "--runs", str(tmp_path)]) == 0
    assert "partial, folds are missing" in " ".join(capsys.readouterr().out.split())


def test_a_fold_is_compared_and_done_again(study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = study.of(nested=True)
    once, nested = ({f: str(study.folder(one)) for f, one in study.of(nested=n).items()} for n in (False, True))
    assert main(["compare", once[2], nested[2], "--json"]) == 0
    compared = json.loads(capsys.readouterr().out)
    assert compared["n_images"] == 4
    assert set(compared["settings"]) == {"decode.rest"}
    assert main(["compare", once[1], once[2]]) == 2
    assert "no scored image in common" in capsys.readouterr().err
    call = ["reproduce", nested[2], "--adapter", str(study.adapter)]
    assert main([*call, "--data", str(study.data), "--out", str(tmp_path / "again")]) == 0
    (again,) = load_records([tmp_path / "again"])
    told = ("key", "split", "nested", "tuning", "parameters")
    assert all(getattr(again, name) == getattr(before[2], name) for name in told)


def test_limit_is_of_each_fold(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    assert study.call("run", "--folds", "3", "--limit", "1", "--dry-run") == 0
    assert "in all: 3 trainings, 3 tests of 3 images" in capsys.readouterr().out
    (row,) = rows([fold_record(fold, limit=2) for fold in (1, 2)])
    assert (row.limit, row.partial, row.rank) == (2, True, None)


def test_folds_need_not_be_written_down(fresh: Study, capsys: pytest.CaptureFixture[str]) -> None:
    # No folder can be made here.
    fresh.file.parent.write_text("")
    assert fresh.call("run", "--folds", "3", "--retry", "failed") == 0
    assert "the folds are not written down" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (["run", "--folds", "7"], "12 images in 6 group(s) cannot make 7 folds: ask for at most 6"),
        (["run", "--folds", "3", "--train-data", "DATA"], "leave out --train-data"),
        (["run", "--nested"], "add --folds K"),
        (["run", "--folds", "3", "--nested", "--tuned", "tuned.yaml"], "leave out FILE"),
        (["run", "--folds", "3", "--nested"], "first run: crystalbench tune --method picky --folds 3"),
        (["run", "--folds", "3", "--tuned"], "first run: crystalbench tune --method picky\n"),
    ],
)
def test_calls_that_are_wrong(fresh: Study, call: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    verb, *extra = (str(fresh.data) if part == "DATA" else part for part in call)
    assert fresh.call(verb, *extra) == 2
    assert said in capsys.readouterr().err
    assert not fresh.out.exists()


@pytest.mark.parametrize(
    ("verb", "folds", "said"),
    [("run", "2", "at least 3"), ("tune", "many", "at least 3"), ("time", "3", "unrecognized arguments: --folds")],
)
def test_numbers_that_are_no_folds(verb: str, folds: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([verb, "--method", "truth", "--folds", folds])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_what_was_tuned_in_other_folds_is_refused(
    study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "squares"
    shutil.copytree(study.data, data)
    file = data / "splits" / "3-fold.json"
    content = json.loads(file.read_text())
    for image in content["images"].values():
        image["fold"] = image["fold"] % 3 + 1
    file.write_text(json.dumps(content))
    call = ["run", "--method", "picky", "--adapter", str(study.adapter), "--data", str(data), "--out", str(study.out)]
    assert main([*call, "--folds", "3", "--nested", "--dry-run"]) == 2
    assert "tuned-fold-1-of-3.yaml: was tuned for split_sha256" in capsys.readouterr().err
    tuned = study.out / "squares" / "picky" / "tuned-fold-1-of-3.yaml"
    assert main([*call, "--tuned", str(tuned), "--dry-run"]) == 2
    assert "was tuned for split 3-fold, not fixed" in capsys.readouterr().err


def test_leaks_between_folds_are_shown(fresh: Study, capsys: pytest.CaptureFixture[str]) -> None:
    fresh.file.parent.mkdir()
    images = {f"square{n}": {"fold": 1 + n % 3} for n in range(1, 12)}
    fresh.file.write_text(json.dumps({"name": "3-fold", "kind": "folds", "version": 1, "images": images}))
    assert fresh.call("run", "--folds", "3", "--retry", "failed") == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "group pair1 is in fold 2 (as square1) and fold 3 (as square2)" in said
    assert "leaves out images, which are not used: square12" in said


def test_folds_of_a_made_set_that_grew_are_made_anew(tmp_path: Path) -> None:
    folder = make_dataset("demo", tmp_path / "demo", images=3)
    keep_folds(open_dataset(folder), 3)
    make_dataset("demo", folder, images=4)
    assert set(open_dataset(folder).folds(3).assignment) == {"000", "001", "002", "003"}


def test_keys_of_the_fixed_split_stay() -> None:
    board = Path(__file__).parents[1] / "leaderboard" / "records" / "demo"
    for name in ("voronoi", "watershed"):
        (file,) = (board / name).glob(f"{'?' * 12}.json")
        published = Record.model_validate_json(file.read_bytes())
        request = Request(methods=(name,), dataset=find_dataset("demo"), threads=published.threads)
        (experiment,) = plan(request, print)
        assert experiment.key == published.key
        assert experiment.parts.sha256 == published.split.sha256
        keys = {component: training.key for component, training in experiment.trainings.items()}
        assert keys == {component: training.key for component, training in published.trainings.items()}


# Rows of records that nobody ran


def fold_record(fold: int, predictions: Any = CLOSE, *, of: int = 2, **changes: Any) -> Record:
    """Of five images, two in the first fold and three in the second."""
    part = slice(0, 2) if fold == 1 else slice(2, None)
    images = image_records(predictions)[part]
    split = {"name": f"{of}-fold", "sha256": "f" * 64, "fold": fold, "folds": of}
    return record(split=split, images=images, n_planned=len(TRUTHS[part]), **changes)


def test_folds_give_what_one_split_of_the_same_images_gives() -> None:
    (whole,) = rows([record(FAR, seed=s) for s in (0, 1)])
    (row,) = rows([fold_record(fold, FAR, seed=s) for s in (0, 1) for fold in (1, 2)])
    differing = {"split", "split_name", "split_sha256", "key", "by_fold"}
    assert row.model_dump(exclude=differing) == whole.model_dump(exclude=differing)
    assert (row.by_fold["1"].n, row.by_fold["2"].n) == (2, 3)
    assert (row.split, whole.split, whole.by_fold) == ("2-fold", "test", {})


def test_folds_and_the_fixed_split_are_never_ranked_together() -> None:
    found = rows([record(EXACT), fold_record(1), fold_record(2), record(FAR, method="cellpose")])
    assert {(row.split, row.rank) for row in found} == {("2-fold", "1"), ("test", "1-2")}
    assert len({row.board for row in found}) == 2


def test_a_seed_that_lacks_a_fold() -> None:
    (row,) = rows([fold_record(1), fold_record(2), fold_record(1, seed=1)])
    assert (row.seeds, row.partial, row.n_images, row.n_failed) == ([0, 1], True, 5, 0)
    assert row.warnings == ["seed 1 lacks fold 2 of 2"]


def test_an_image_that_failed_in_one_fold() -> None:
    (row,) = rows([fold_record(1), fold_record(2, [*CLOSE[:4], None])])
    assert (row.n_images, row.n_failed, row.partial) == (5, 1, True)


def test_latency_is_the_mean_of_all_calls() -> None:
    def latency(n: int, mean_s: float) -> dict[str, Any]:
        return {"protocol": "p", "n": n, "mean_s": mean_s, "median_s": 1, "iqr_s": 0, "stages": {"cp": mean_s / 2}}

    (row,) = rows([fold_record(1, latency=latency(2, 1.0)), fold_record(2, latency=latency(3, 2.0))])
    assert (row.latency_s, row.latency_stages) == (pytest.approx(1.6), {"cp": pytest.approx(0.8)})


def test_two_nested_studies_are_two_rows() -> None:
    def parameters(h: float) -> dict[str, Any]:
        return {"train": {"cp": {"lr": 0.1}}, "infer": {}, "decode": {"h": h}}

    one = [fold_record(fold, nested="a" * 64, parameters=parameters(fold)) for fold in (1, 2)]
    other = [fold_record(fold, nested="b" * 64, parameters=parameters(fold)) for fold in (1, 2)]
    found = rows([*one, *other, fold_record(1, parameters=parameters(1)), fold_record(2, parameters=parameters(1))])
    assert [row.nested for row in found].count(True) == 2
    assert [row.n_images for row in found] == [5, 5, 5]


def test_a_record_of_a_fold_that_there_is_not(study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = study.records[0]
    wrong = one.model_copy(update={"split": one.split.model_copy(update={"fold": 4})})
    (tmp_path / "record.json").write_text(wrong.model_dump_json(by_alias=True))
    call = ["reproduce", str(tmp_path), "--adapter", str(study.adapter), "--data", str(study.data)]
    assert main([*call, "--out", str(tmp_path / "again")]) == 2
    assert "fold 4 of 3" in capsys.readouterr().err
