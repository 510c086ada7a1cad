"""Searches of a small method of our own that writes down everything it does, and of real ones."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from conftest import make_squares
from searched import POSTGRES, SEARCH, Nodes, Server, Workshop, check_study, finish, wait_until, workers

from crystalbench._exceptions import ConfigurationError
from crystalbench.cli import main
from crystalbench.config import ParameterSet
from crystalbench.data import open_dataset
from crystalbench.evaluation import evaluate
from crystalbench.experiment._grid import drawn, read_grid, shares
from crystalbench.experiment._jobs import read_job
from crystalbench.experiment._score import ScoreRow
from crystalbench.registry import find_method


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path)


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """A search that nothing disturbed."""
    workshop = Workshop(tmp_path_factory.mktemp("calm"))
    printed = workshop.run("tune")
    assert "16 points of 4 trainings (2 of net, 3 of head)" in " ".join(printed.split())
    return workshop


def test_a_stage_begins_where_the_one_before_has_won(calm: Workshop) -> None:
    tuned = calm.tuned
    assert tuned["overrides"] == {
        "train": {"net": {"level": 0}, "head": {"offset": 5}},
        "infer": {"gain": 1.0},
        "decode": {"threshold": 120},
    }
    assert [stage["name"] for stage in tuned["stages"]] == ["net", "head"]
    assert [(stage["trainings"], stage["points"]) for stage in tuned["stages"]] == [(2, 8), (2, 8)]
    points = list(calm.points().values())
    of_head = [point for point in points if point["stage"] == "head"]
    assert {point["values"]["train"]["net"]["level"] for point in of_head} == {0}
    assert max(point["pq"] for point in points) == tuned["pq"] > 0.9
    assert sorted(point["pq"] for point in points)[0] < 0.5


def test_each_training_and_each_forward_pass_is_done_once(calm: Workshop) -> None:
    epochs = [f"train net {level} epoch {epoch}" for level in ("200.0", "0.0") for epoch in (1, 2, 3)]
    assert calm.trained() == Counter([*epochs, "train head 0.0", "train head 70.0", "train head 5.0"])
    n_images = len(open_dataset(calm.data).split().val)
    inferred = sorted(count for note, count in calm.noted().items() if note.startswith("infer"))
    # Four models, two gains; the first call of each of the four workers is a warm-up.
    assert len(inferred) == 4 * 2 * n_images
    assert sum(inferred) == len(inferred) + 4


def test_scores_are_those_of_predict_on_the_validation_images(calm: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTES", str(calm.notes.with_name("others.txt")))
    method = find_method("searched", [str(calm.adapter)])
    samples = {sample.name: sample for sample in open_dataset(calm.data).split().val}
    for file in calm.tune_folder.glob("*/job.json"):
        job = read_job(file)
        for point in (json.loads(file.read_text()) for file in file.parent.glob("point-*.json")):
            segmenter = method.build(point["values"])
            segmenter.load(job.checkpoints, "cpu")  # type: ignore[union-attr]
            assert [image["image"] for image in point["images"]] == sorted(samples)
            for image in point["images"]:
                sample = samples[image["image"]]
                scores = evaluate(sample.label, segmenter.predict(sample.image))
                assert (image["pq"], image["tp"], image["fp"], image["fn"]) == (
                    *(scores.pq, scores.tp, scores.fp, scores.fn),
                )


def test_the_same_command_again_does_nothing(calm: Workshop) -> None:
    notes, points, tuned = calm.noted(), calm.points(), calm.tuned
    calm.run("tune")
    assert (calm.noted(), calm.points(), calm.tuned) == (notes, points, tuned)


def test_the_study_opens_in_optuna_and_is_made_anew_where_it_is_lost(calm: Workshop) -> None:
    check_study(calm.study_url, calm)
    notes = calm.noted()
    (calm.tune_folder / "study.db").unlink()
    calm.run("tune")
    check_study(calm.study_url, calm)
    assert calm.noted() == notes


def test_run_takes_what_was_tuned_and_the_board_says_what_it_cost(
    calm: Workshop, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = calm.trained()
    calm.run("run", "--tuned")
    calm.run("run", "--set", "decode.threshold=100")
    assert calm.trained() == trained
    assert main(["leaderboard", "--runs", str(calm.out), "--format", "json"]) == 0
    rows = {row["settings"]["decode"]["threshold"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows[120.0]["tuning"] == calm.tuned["cost"]
    assert rows[120.0]["tuning"].items() >= {"trainings": 4, "points": 16}.items()
    assert rows[120.0]["tuning"]["device_s"] < rows[120.0]["tuning"]["device_s_point_by_point"]
    assert rows[100.0]["tuning"] is None
    assert rows[120.0]["changes"].items() >= {"train.head.offset": 5.0, "decode.threshold": 120.0}.items()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "sima"}, "was tuned for method sima, not searched"),
        ({"preset": "standard"}, "was tuned for preset standard, not quick"),
        ({"dataset": "tbm"}, "was tuned for dataset tbm, not squares"),
        ({"dataset_sha256": "0"}, "was tuned for dataset_sha256 0"),
        ({"ovverides": {}}, "did you mean 'overrides'"),
    ],
)
def test_what_was_tuned_for_something_else_is_refused(
    calm: Workshop, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    file = tmp_path / "other.yaml"
    file.write_text(yaml.safe_dump({**calm.tuned, **change}))
    assert message in calm.run("run", "--tuned", str(file), "--dry-run", status=2)


def test_tuned_needs_its_file_and_a_file_is_of_one_method(calm: Workshop, tmp_path: Path) -> None:
    printed = calm.run("run", "--tuned", "--preset", "quick", "--out", str(tmp_path), status=2)
    assert "first run: crystalbench tune --method searched" in printed
    printed = calm.run("run", "--method", "truth", "--tuned", str(tmp_path / "tuned.yaml"), status=2)
    assert "give one --method" in printed


def test_kill_9_at_random_moments_changes_nothing(calm: Workshop, workshop: Workshop) -> None:
    chance = random.Random(0)
    kept: dict[str, dict[str, Any]] = {}
    for number in range(5):
        process = workshop.start("tune", "--jobs", str(1 + number % 2))
        time.sleep(chance.uniform(3.0, 15.0))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kept |= workshop.points()
    workshop.run("tune")
    assert workshop.scored() == calm.scored()
    assert workshop.points().items() >= kept.items()
    assert workshop.tuned["overrides"] == calm.tuned["overrides"]
    # A kill can fall between an epoch's state and its note, so a note may be missing but never doubled.
    assert max(count for note, count in workshop.trained().items() if note.startswith("train net")) == 1
    rows = [ScoreRow.model_validate_json(line) for line in _whole_lines(workshop)]
    assert max(Counter((row.point, row.image) for row in rows).values()) == 1
    check_study(workshop.study_url, workshop)


def _whole_lines(workshop: Workshop) -> Iterator[str]:
    for file in workshop.tune_folder.glob("*/scores.jsonl"):
        yield from (line for line in file.read_text().splitlines() if line.endswith("}"))


def test_failed_points_and_trainings_are_recorded_and_the_others_go_on(workshop: Workshop) -> None:
    workshop.write("{train: {net: {level: [13, 0]}}, decode: {threshold: [13, 120]}}")
    printed = workshop.run("tune")
    assert "no luck with 13" in printed
    found = {tuple(p["parameters"].values()): (p["status"], p["error"]) for p in workshop.points().values()}
    assert {key: status for key, (status, _) in found.items()} == {
        (13, 13): "failed",
        (13, 120): "failed",
        (0, 13): "failed",
        (0, 120): "ok",
    }
    assert "no luck with this point" in found[0, 13][1]["message"]
    assert workshop.tuned["stages"][0]["failed"] == 3
    check_study(workshop.study_url, workshop)
    # What has failed stays so, until it is asked for again.
    notes = workshop.noted()
    workshop.run("tune")
    assert workshop.noted() == notes
    workshop.notes.with_name("mended").touch()
    workshop.run("tune", "--retry", "failed")
    assert Counter(p["status"] for p in workshop.points().values()) == {"ok": 2, "failed": 2}
    assert workshop.noted()["train net 13.0 epoch 1"] == workshop.noted()["train net 0.0 epoch 1"] == 1


def test_a_search_that_finds_nothing_says_why(workshop: Workshop) -> None:
    workshop.write("{train: {net: {level: [13]}}, decode: {threshold: [13, 13.0]}}")
    printed = workshop.run("tune", status=1)
    assert "no point of stage points can be chosen" in printed
    assert "no luck with 13" in printed
    assert not (workshop.out / "squares/searched/tuned.yaml").exists()


def test_a_smaller_budget_is_shared_out_among_stages(workshop: Workshop) -> None:
    workshop.write(SEARCH.replace("[200, 0]", "[200, 0, 1, 2]").replace("[70, 5]", "[70, 5, 6, 7]"))
    printed = workshop.run("tune", "--trainings", "4", "--dry-run")
    assert "stage net          2 trainings (2 of net, 1 of head), 8 points, 0 done" in printed
    assert "in all: 4 trainings, 16 points" in printed
    assert not workshop.trained()
    assert "each needs at least one" in workshop.run("tune", "--trainings", "1", status=2)


def test_tpe_tries_as_many_as_it_may_and_nothing_twice(workshop: Workshop) -> None:
    levels = list(range(0, 100, 10))
    workshop.write(f"{{train: {{net: {{level: {levels}, epochs: [1]}}}}, decode: {{threshold: [120, 90]}}}}")
    workshop.run("tune", "--sampler", "tpe", "--trainings", "5")
    tried = {point["parameters"]["train.net.level"] for point in workshop.points().values()}
    assert len(tried) == 5
    assert len(workshop.points()) == 10
    assert workshop.tuned["sampler"] == "tpe"
    trained = workshop.trained()
    workshop.run("tune", "--sampler", "tpe", "--trainings", "5")
    assert workshop.trained() == trained
    check_study(workshop.study_url, workshop)
    assert "--sampler tpe needs --trainings" in workshop.run("tune", "--sampler", "tpe", status=2)


def test_points_that_are_worse_are_pruned_and_scored_where_nothing_prunes(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path, "infer: {gain: [1.0, 0.1]}\ndecode: {threshold: [120, 30]}")
    shutil.rmtree(workshop.data)
    make_squares(workshop.data, 40)
    n_images = len(open_dataset(workshop.data).split().val)
    workshop.run("tune", "--prune")
    pruned = [point for point in workshop.points().values() if point["images"][-1]["status"] == "pruned"]
    assert len(pruned) == workshop.tuned["stages"][0]["pruned"] > 0
    for point in pruned:
        assert point["pq"] is None
        assert [image["status"] for image in point["images"]] == ["ok"] * 4 + ["pruned"] * (n_images - 4)
    (name,) = optuna.get_all_study_names(workshop.study_url)
    trials = optuna.load_study(study_name=name, storage=workshop.study_url).trials
    states = Counter(trial.state.name for trial in trials)
    assert states == {"PRUNED": len(pruned), "COMPLETE": 4 - len(pruned)}
    inferred = Counter(note.split()[2] for note in workshop.noted().elements() if note.startswith("infer"))
    # The first call of the worker is a warm-up.
    assert inferred == {"1.0": n_images + 1, "0.1": 4}
    # What was half written when a kill came is pruned again.
    (rows,) = workshop.tune_folder.glob("*/scores.jsonl")
    before, lines = workshop.points(), rows.read_text().splitlines(keepends=True)
    rows.write_text("".join(lines[: len(lines) // 2]))
    for file in workshop.tune_folder.glob("*/point-*.json"):
        file.unlink()
    workshop.run("tune", "--prune")
    assert [point["images"][-1]["status"] for point in workshop.points().values()] == [
        point["images"][-1]["status"] for point in before.values()
    ]
    chosen = workshop.tuned["overrides"]
    workshop.run("tune")
    assert workshop.tuned["overrides"] == chosen
    assert workshop.tuned["stages"][0]["pruned"] == 0
    assert all(len(point["images"]) == n_images and point["pq"] is not None for point in workshop.points().values())
    notes = workshop.noted()
    workshop.run("tune", "--prune")
    assert workshop.noted() == notes


def test_what_the_user_sets_is_not_searched(workshop: Workshop) -> None:
    printed = workshop.run("tune", "--dry-run", "--set", "train.net.level=3", "--set", "infer.gain=1")
    assert "in all: 2 trainings, 4 points" in printed


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (["--method", "truth"], "truth has nothing to search"),
        (["--method", "watershed", "--seed", "0", "1"], "one --seed"),
        (["--method", "watershed", "--storage", "nonsense://"], "--storage nonsense:// cannot be opened"),
        (["--method", "watershed", "--storage", "postgresql://me:secret@localhost:1/x"], "cannot be opened"),
    ],
)
def test_wrong_calls_are_clear(
    call: list[str], message: str, squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tune", *call, "--data", str(squares), "--out", str(tmp_path)]) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert "secret" not in errors


@pytest.mark.parametrize(
    ("method", "settings", "trainings", "points"),
    [
        ("rtmdet", ["infer.mode=windows"], 5, 135),
        ("rtmdet", [], 5, 270),
        ("maskformer", ["infer.mode=resized"], 5, 20),
        ("oneformer", ["infer.mode=resized"], 5, 20),
        ("cellpose", [], 12, 36),
        ("cellpose-noresize", [], 12, 36),
        ("boundary", [], 5, 5),
        ("sima", [], 12 + 81, 12 * 18 + 81 * 18),
        ("watershed", [], 0, 27),
    ],
)
def test_points_of_the_papers_grids_cost_few_trainings(
    method: str,
    settings: list[str],
    trainings: int,
    points: int,
    squares: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    call = ["tune", "--method", method, "--preset", "paper", "--data", str(squares), "--out", str(tmp_path)]
    assert main([*call, "--dry-run", *(part for setting in settings for part in ("--set", setting))]) == 0
    assert f"in all: {trainings} trainings, {points} points" in capsys.readouterr().out
    assert not any(tmp_path.glob("**/training.json"))


def test_points_whose_parameters_do_not_go_together_are_left_out(
    squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two attention maps go with two scales, four with four."""
    adapter = tmp_path / "scales.py"
    adapter.write_text("from crystalbench.adapters.sima import Sima\n\nclass Scales(Sima): ...\n")
    attention = {"thresholds": [[1.0, 0.5], [1.0, 0.5, 0.25, 0.125]], "loss_weights": [[2, 4, 1], [2, 4, 6, 8, 1]]}
    factors = [["input", 1.0], ["input", 0.5, 0.75, 1.0]]
    search = {"train": {"attention": attention}, "infer": {"resize_factors": factors}}
    info = {"title": "Scales", "licence": "MIT"}
    adapter.with_suffix(".yaml").write_text(yaml.safe_dump({"method": "scales", "info": info, "search": search}))
    call = ["tune", "--method", "scales", "--adapter", str(adapter), "--data", str(squares), "--dry-run"]
    assert main([*call, "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "2 trainings (1 of cp, 2 of attention), 2 points, 6 left out, whose parameters do not go together" in printed


def test_watershed_end_to_end(squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = ["--method", "watershed", "--data", str(squares), "--threads", "1", "--out", str(tmp_path)]
    assert main(["tune", *call]) == 0
    assert "27 points of 0 trainings" in capsys.readouterr().out
    assert main(["run", *call, "--tuned"]) == 0
    (file,) = tmp_path.glob("squares/watershed/*/record.json")
    assert json.loads(file.read_text())["tuning"]["points"] == 27


TINY = """
method: tiny
info: {title: Tiny, licence: MIT}
train:
  cp: {width: [4, 8], input_size: 32, diameter: 20.0, epochs: 2, crops_per_image: 1, batch_size: 2, warmup_epochs: 0}
decode: {foreground_threshold: -5.0, flow_threshold: 0.0, min_size: 1}
search:
  train: {cp: {lr: [0.001, 0.01]}}
  infer: {resize_factors: [[input, 1.0], [0.5, 1.0]]}
  decode: {foreground_threshold: [-5.0, 0.0]}
"""


def write_tiny(folder: Path) -> Path:
    adapter = folder / "tiny.py"
    adapter.write_text(
        "from crystalbench.adapters.cellpose import CellposeMultiscale\n\nclass Tiny(CellposeMultiscale): ...\n"
    )
    adapter.with_suffix(".yaml").write_text(TINY)
    return adapter


def test_a_flow_network_end_to_end(squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapter = write_tiny(tmp_path)
    call = ["--method", "tiny", "--adapter", str(adapter), "--data", str(squares), "--threads", "1"]
    assert main(["tune", *call, "--out", str(tmp_path)]) == 0
    assert "8 points of 2 trainings" in capsys.readouterr().out
    assert len(list(tmp_path.glob("train/cp/*/training.json"))) == 2
    samples = {sample.name: sample for sample in open_dataset(squares).split().val}
    method = find_method("tiny", [str(adapter)])
    (job_file, _) = sorted(tmp_path.glob("squares/tiny/tune/*/job.json"))
    points = [json.loads(file.read_text()) for file in job_file.parent.glob("point-*.json")]
    assert len(points) == 4
    for point in points:
        segmenter = method.build(point["values"])
        segmenter.load(read_job(job_file).checkpoints, "cpu")  # type: ignore[union-attr]
        for image in point["images"]:
            sample = samples[image["image"]]
            assert image["pq"] == evaluate(sample.label, segmenter.predict(sample.image)).pq


def test_grids_and_budgets() -> None:
    search = ParameterSet(train={"b": {"x": [1, 2]}, "a": {"y": [3, 4], "z": [5]}}, decode={"t": [0, 1, 2]})
    grid = read_grid(search, ["a", "b"], ["decode.t"])
    assert [stage.name for stage in grid.stages] == ["a", "b"]
    assert grid.fixed == {"train.a.z": 5}
    assert grid.decode == ({},)
    with pytest.raises(ConfigurationError, match=r"search\.train\.a\.y: write the values to try as a list"):
        read_grid(ParameterSet(train={"a": {"y": 3}}), ["a"], [])
    assert shares([12, 81], 30) == [12, 18]
    assert shares([5], 9) == [5]
    choices = [{"n": n} for n in range(20)]
    assert all(choice in drawn(choices, 9, 0) for choice in drawn(choices, 4, 0))
    assert drawn(choices, 20, 0) == choices


@pytest.fixture
def server() -> Iterator[Server]:
    if POSTGRES is None:
        pytest.skip("PostgreSQL is not installed below /usr/lib/postgresql")
    # Not in pytest's own folder, which other users cannot enter.
    folder = Path(tempfile.mkdtemp(prefix="cb-postgres-"))
    server = Server(folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder)


def test_two_workers_share_a_search_through_postgresql(server: Server, calm: Workshop, workshop: Workshop) -> None:
    workers = [workshop.start("tune", "--storage", server.url) for _ in range(2)]
    printed = [finish(worker) for worker in workers]
    assert workshop.scored() == calm.scored()
    assert workshop.tuned["overrides"] == calm.tuned["overrides"]
    assert workshop.trained() == calm.trained()
    check_study(server.url, workshop)
    # Each has done some of it.
    assert all("score 4 points" in one for one in printed)


def test_work_goes_on_while_postgresql_is_away(server: Server, calm: Workshop, workshop: Workshop) -> None:
    worker = workshop.start("tune", "--storage", server.url)
    deadline = time.monotonic() + 120
    while not workshop.points():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    server.stop()
    while len(workshop.points()) < 12:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    server.start()
    finish(worker)
    assert workshop.scored() == calm.scored()
    workshop.run("tune", "--storage", server.url)
    check_study(server.url, workshop)
    assert workshop.trained() == calm.trained()


def test_jobs_side_by_side_find_the_same(calm: Workshop, workshop: Workshop) -> None:
    printed = workshop.run("tune", "--jobs", "2")
    assert workshop.scored() == calm.scored()
    assert workshop.tuned["overrides"] == calm.tuned["overrides"]
    assert workshop.trained() == calm.trained()
    check_study(workshop.study_url, workshop)
    # The second pass began before the first had ended.
    assert printed.index("stage net 2/2") < printed.index("score 4 points")


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    nodes = Nodes()
    try:
        yield nodes
    finally:
        nodes.end()


def test_a_ray_cluster_that_loses_its_driver_and_a_node_finds_the_same(
    nodes: Nodes, calm: Workshop, workshop: Workshop
) -> None:
    driver = workshop.start("tune", *nodes.options)
    wait_until(lambda: workers(workshop.out))
    driver.kill()
    driver.communicate()
    wait_until(lambda: not workers(workshop.out), 30)
    driver = workshop.start("tune", *nodes.options)
    wait_until(lambda: nodes.kill_busy(workshop.out))
    finish(driver)
    for shop in (workshop, calm):
        shop.run("run", "--tuned", *(nodes.options if shop is workshop else ()))
    assert workshop.scored() == calm.scored()
    ((key, images),) = workshop.images().items()
    assert images == calm.images()[key] != []
    assert workshop.tuned["overrides"] == calm.tuned["overrides"]
    assert max(count for note, count in workshop.trained().items() if note.startswith("train net")) == 1
    check_study(workshop.study_url, workshop)
    nodes.fill()


def test_a_job_that_is_larger_than_every_node_is_refused(nodes: Nodes, workshop: Workshop) -> None:
    printed = workshop.run("run", *nodes.options, "--threads", "99", status=2)
    assert "a job takes 99 CPUs, and no node of the Ray cluster has as many (the largest has 1 CPUs)" in printed
    assert "no node of the Ray cluster has a GPU" in workshop.run("run", *nodes.options, "--device", "cuda", status=2)


class Network(Workshop):
    """The same with a network that is really trained."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        super().__init__(folder)
        self.adapter = write_tiny(folder)
        self.tune_folder = self.out / "squares" / "tiny" / "tune"

    def checkpoints(self) -> list[str]:
        return sorted(json.loads(f.read_text())["checkpoint_sha256"] for f in self.out.glob("train/*/*/training.json"))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_study_of_a_network_is_the_same_wherever_it_is_done(nodes: Nodes, server: Server, tmp_path: Path) -> None:
    nodes.fill()
    one, two, ray, shared = (Network(tmp_path / name) for name in ("one", "two", "ray", "shared"))
    one.run("tune")
    two.run("tune", "--jobs", "2")
    driver = ray.start("tune", *nodes.options)
    wait_until(lambda: nodes.kill_busy(ray.out))
    finish(driver)
    both = [shared.start("tune", "--storage", server.url) for _ in range(2)]
    for driver in both:
        finish(driver)
    for network in (two, ray, shared):
        assert network.scored() == one.scored()
        assert network.checkpoints() == one.checkpoints()
        assert {**network.tuned, "cost": None} == {**one.tuned, "cost": None}
    assert len(one.points()) == 8
    assert len(one.checkpoints()) == 2


def is_busy_or_ended(workshop: Workshop, driver: subprocess.Popen[str]) -> bool:
    return bool(workers(workshop.out)) or driver.poll() is not None


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_kill_9_of_driver_node_and_database_at_many_moments_changes_nothing(
    nodes: Nodes, server: Server, calm: Workshop, workshop: Workshop
) -> None:
    chance = random.Random(1)
    counts = Counter[str]()
    kept: dict[str, dict[str, Any]] = {}
    begin = time.monotonic()
    while len(workshop.points()) < 16 and counts["driver"] < 20:
        where = chance.choice([("--jobs", "1"), ("--jobs", "2"), nodes.options])
        driver = workshop.start("tune", "--storage", server.url, *where)
        if chance.random() < 0.7:
            # Most moments fall amid the work, the others anywhere.
            wait_until(partial(is_busy_or_ended, workshop, driver))
        time.sleep(chance.uniform(0.0, 8.0))
        if chance.random() < 0.6:
            counts["node"] += nodes.kill_busy(workshop.out)
        if chance.random() < 0.3:
            server.stop()
            counts["database"] += 1
            time.sleep(chance.uniform(0.0, 4.0))
            server.start()
        driver.kill()
        driver.communicate()
        counts["driver"] += 1
        kept |= workshop.points()
        nodes.fill()
    workshop.run("tune", "--storage", server.url, *nodes.options)
    print(f"{dict(counts)} kills in {time.monotonic() - begin:.0f} s; trained: {dict(workshop.trained())}")
    assert workshop.scored() == calm.scored()
    assert workshop.points().items() >= kept.items()
    assert workshop.tuned["overrides"] == calm.tuned["overrides"]
    assert max(count for note, count in workshop.trained().items() if note.startswith("train net")) == 1
    check_study(server.url, workshop)
