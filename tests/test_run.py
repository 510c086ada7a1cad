"""Runs of a small method of our own that writes down everything it does."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from conftest import make_squares

from crystalbench._files import path_sha256
from crystalbench.data import open_dataset, read_labels, write_split
from crystalbench.evaluation import evaluate_extras
from crystalbench.experiment._jobs import PlannedImage, PredictJob
from crystalbench.experiment._predict import predict, read_images
from crystalbench.registry import find_method

AUDITED = """
import json, os, time
from pathlib import Path
import numpy as np
from safetensors.numpy import load_file, save_file
from crystalbench import Component, MethodInfo, Parameters, Segmenter

AUDIT = Path(os.environ["AUDIT"])

def note(what):
    with AUDIT.open("a") as file:
        file.write(what + "\\n")

class NetTrain(Parameters):
    epochs: int = 8
    lr: float = 1.0
    init: str = "random"

class Decode(Parameters):
    fail_on: int = -1
    exit_on: int = -1

class Audited(Segmenter):
    info = MethodInfo(name="audited", title="Audited", licence="MIT")
    components = (Component("net", NetTrain),)
    Decode = Decode

    def fit(self, component, train, val, context):
        state = context.folder / "state.json"
        epoch, level = json.loads(state.read_text()) if state.exists() else (0, 0.0)
        if self.train["net"].init == "pickle" and not context.unpickle:
            raise RuntimeError("needs unpickling")
        while epoch < self.train["net"].epochs:
            time.sleep(0.05)
            level += np.mean([s.image.mean() for s in train]) / self.train["net"].epochs
            epoch += 1
            temporary = state.with_suffix(".new")
            temporary.write_text(json.dumps([epoch, level]))
            temporary.replace(state)
            note(f"epoch {epoch}")
            context.report(epoch, self.train["net"].epochs, level=level)
        context.warn("a warning from the training")
        context.initial_weights("random")
        save_file({"level": np.array([level])}, context.folder / "checkpoint.safetensors")

    def load(self, checkpoints, device):
        self.level = load_file(checkpoints["net"])["level"][0]

    def predict(self, image):
        bright = image[..., 0] > self.level
        number = int(bright.sum() // 100)
        time.sleep(0.1)
        if number == self.decode_parameters.fail_on:
            raise RuntimeError("no luck with this one")
        if number == self.decode_parameters.exit_on:
            os._exit(7)
        with self.stage("threshold"):
            from skimage.measure import label
            self.details["level"] = float(self.level)
            return label(bright, connectivity=1).astype(np.int32)
"""


class Workshop:
    """A data set, an adapter and the command that runs it."""

    def __init__(self, folder: Path) -> None:
        self.adapter = folder / "audited.py"
        self.adapter.write_text(AUDITED)
        self.audit = folder / "audit.txt"
        self.audit.touch()
        self.data = make_squares(folder / "squares", 12)
        self.out = folder / "runs"

    def command(self, *extra: str) -> list[str]:
        return [
            *(sys.executable, "-m", "crystalbench", "run", "--method", "audited", "--adapter", str(self.adapter)),
            *("--data", str(self.data), "--out", str(self.out), "--threads", "1", *extra),
        ]

    def start(self, *extra: str) -> subprocess.Popen[str]:
        environment = os.environ | {"AUDIT": str(self.audit)}
        pipe = subprocess.PIPE
        return subprocess.Popen(self.command(*extra), env=environment, stdout=pipe, stderr=pipe, text=True)

    def run(self, *extra: str, status: int = 0) -> str:
        process = self.start(*extra)
        output, errors = process.communicate(timeout=120)
        assert process.returncode == status, errors
        return output + errors

    def records(self, method: str = "audited") -> list[dict[str, object]]:
        return [json.loads(file.read_text()) for file in sorted(self.out.glob(f"squares/{method}/*/record.json"))]

    @property
    def tested(self) -> int:
        """How many squares the first test image has."""
        return int(open_dataset(self.data).split().test[0].label.max())

    @property
    def trained(self) -> bool:
        return any(self.out.glob("train/net/*/training.json"))

    @property
    def news(self) -> tuple[int, int]:
        """How much of the run is done: notes of the training, lines of results."""
        lines = [line for file in self.out.glob("squares/audited/*/images.jsonl") for line in file.open()]
        return self.noted().total(), len(lines)

    def noted(self) -> Counter[str]:
        return Counter(self.audit.read_text().splitlines())


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path)


def _wait_for(workshop: Workshop, note: str) -> None:
    deadline = time.monotonic() + 30
    while note not in workshop.noted():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _wait_for_news(workshop: Workshop, process: subprocess.Popen[str]) -> None:
    before = workshop.news
    while workshop.news == before and process.poll() is None:
        time.sleep(0.05)


def scores(record: dict[str, object]) -> list[object]:
    return [{**image, "seconds": None, "stages": None} for image in record["images"]]  # type: ignore[attr-defined]


def test_a_record_says_everything(workshop: Workshop) -> None:
    (workshop.data / "dataset.yaml").write_text("class_px: 8\n")
    workshop.run()
    (record,) = workshop.records()
    assert record["status"] == "ok"
    assert record["summary"]["pq"] > 0.9  # type: ignore[index]
    assert len(record["images"]) == record["n_planned"] > 0  # type: ignore[arg-type]
    assert record["trainings"]["net"]["weights"] == "random"  # type: ignore[index]
    assert record["changes"] == {}
    assert record["warnings"] == ["net: a warning from the training"]
    assert record["latency"]["stages"]["threshold"] > 0  # type: ignore[index]
    assert record["provenance"]["libraries"]["numpy"]  # type: ignore[index]
    (folder,) = workshop.out.glob("squares/audited/*")
    samples = {sample.name: sample for sample in open_dataset(workshop.data).samples}
    for image in record["images"]:  # type: ignore[attr-defined]
        assert image["details"]["level"] > 0
        assert image["difficulty"] == 3
        assert image["pixels_sha256"] == samples[image["image"]].pixel_hash
        labels = read_labels(folder / "labels" / f"{image['image']}.png")
        assert len(image["scores"]["areas_prediction"]) == labels.max()
        assert image["extras"] == evaluate_extras(samples[image["image"]].label, labels).to_row()
    assert all((folder / overlay).exists() for overlay in record["overlays"])  # type: ignore[attr-defined]


def test_the_same_command_again_does_nothing_twice(workshop: Workshop) -> None:
    workshop.run()
    before = [file.read_bytes() for file in workshop.out.glob("squares/audited/*/record.json")]
    assert "done before" in workshop.run()
    assert [file.read_bytes() for file in workshop.out.glob("squares/audited/*/record.json")] == before
    assert max(workshop.noted().values()) == 1


def test_kill_9_at_random_moments_changes_nothing(workshop: Workshop, tmp_path: Path) -> None:
    (tmp_path / "calm").mkdir()
    undisturbed = Workshop(tmp_path / "calm")
    undisturbed.run("--set", "train.epochs=40")
    chance = random.Random(0)
    torn = 0
    for number in range(10):
        process = workshop.start("--set", "train.epochs=40")
        if number % 2:
            # Half of the kills fall anywhere, half surely amid the work.
            _wait_for_news(workshop, process)
        time.sleep(chance.uniform(0.0, 1.0) if number % 2 else chance.uniform(0.5, 4.0))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        torn += any(workshop.out.glob("train/net/*/state.json")) and not workshop.trained
    assert torn
    workshop.run("--set", "train.epochs=40")
    (expected,), (record,) = undisturbed.records(), workshop.records()
    assert scores(record) == scores(expected)
    assert record["summary"] == expected["summary"]
    lines = [line for file in workshop.out.glob("squares/audited/*/images.jsonl") for line in file.open()]
    assert len(lines) == record["n_planned"]
    epochs = {note: count for note, count in workshop.noted().items() if note.startswith("epoch")}
    assert set(epochs) <= {f"epoch {number}" for number in range(1, 41)}
    # A kill can fall between an epoch's state and its note, so a note may be missing but never doubled.
    assert max(epochs.values()) == 1


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_kill_9_changes_nothing_of_a_real_run_of_sima(tmp_path: Path) -> None:
    few = ["cp.epochs=4", "cp.crops_per_image=1", "attention.epochs=4", "attention.crops_per_image=1"]
    command = [sys.executable, "-m", "crystalbench", "run", "--method", "sima", "--threads", "1", "--limit", "4"]
    command += [argument for setting in few for argument in ("--set", f"train.{setting}")]
    subprocess.run([*command, "--out", str(tmp_path / "calm")], check=True, capture_output=True)
    chance = random.Random(0)
    finished: dict[Path, bytes] = {}
    for _ in range(10):
        process = subprocess.Popen([*command, "--out", str(tmp_path / "runs")], stderr=subprocess.DEVNULL)
        time.sleep(chance.uniform(5.0, 45.0))
        process.kill()
        process.wait()
        finished |= {file: file.read_bytes() for file in (tmp_path / "runs").glob("train/*/*/training.json")}
    subprocess.run([*command, "--out", str(tmp_path / "runs")], check=True, capture_output=True)
    (expected,), (record,) = (
        [json.loads(file.read_text()) for file in (tmp_path / run).glob("demo/sima/*/record.json")]
        for run in ("calm", "runs")
    )
    assert record["status"] == "ok"
    assert scores(record) == scores(expected)
    checkpoints = [{n: t["checkpoint_sha256"] for n, t in r["trainings"].items()} for r in (expected, record)]
    assert checkpoints[0] == checkpoints[1]
    (lines,) = (tmp_path / "runs").glob("demo/sima/*/images.jsonl")
    assert len(lines.read_text().splitlines()) == 4
    assert finished
    assert all(file.read_bytes() == before for file, before in finished.items())


def test_a_failing_method_is_recorded_and_the_others_go_on(workshop: Workshop) -> None:
    (workshop.data / "dataset.yaml").write_text("class_px: 8\n")
    printed = workshop.run("--method", "truth", "--set", f"audited.decode.fail_on={workshop.tested}", status=1)
    (record,) = workshop.records()
    assert {image["difficulty"] for image in record["images"]} == {3}  # type: ignore[attr-defined]
    assert record["status"] == "failed"
    assert "no luck with this one" in record["error"]["message"]  # type: ignore[index]
    failed = [image for image in record["images"] if image["status"] == "failed"]  # type: ignore[attr-defined]
    assert len(failed) == 1
    assert len(record["images"]) == record["n_planned"]  # type: ignore[arg-type]
    assert record["changes"] == {"decode.fail_on": workshop.tested}
    assert "RuntimeError: no luck with this one" in record["error"]["log_tail"]  # type: ignore[index]
    assert "no luck with this one" in printed
    (control,) = workshop.records("truth")
    assert control["status"] == "ok"


def test_a_worker_that_exits_is_recorded_as_crashed(workshop: Workshop) -> None:
    workshop.run("--set", f"decode.exit_on={workshop.tested}", status=1)
    (record,) = workshop.records()
    assert record["status"] == "crashed"
    assert "exit status 7" in record["error"]["message"]  # type: ignore[index]


def test_a_training_without_memory_is_recorded_as_such(workshop: Workshop) -> None:
    workshop.adapter.write_text(AUDITED.replace("state = context", "raise MemoryError('no room'); state = context"))
    printed = workshop.run(status=1)
    (record,) = workshop.records()
    assert record["status"] == "oom"
    (named,) = re.findall(r"see (\S+log\.txt)", printed)
    assert "no room" in Path(named).read_text()


def test_retry_failed_runs_only_what_failed(workshop: Workshop) -> None:
    workshop.run("--method", "truth", "--set", f"audited.decode.exit_on={workshop.tested}", status=1)
    printed = workshop.run(
        "--method", "truth", "--set", f"audited.decode.exit_on={workshop.tested}", "--retry", "failed", status=1
    )
    assert "audited on squares" in printed
    assert "truth on squares" not in printed


def test_a_change_of_decode_does_not_retrain_but_predicts_again(workshop: Workshop) -> None:
    workshop.run()
    workshop.adapter.write_text(AUDITED.replace("connectivity=1", "connectivity=2"))
    printed = workshop.run()
    assert "train net, seed 0: done before" in printed
    assert max(workshop.noted().values()) == 1
    (record,) = workshop.records()
    assert any("has changed since this was trained" in warning for warning in record["warnings"])  # type: ignore[attr-defined]
    workshop.run("--retrain")
    assert workshop.noted()["epoch 1"] == 2
    (record,) = workshop.records()
    assert record["warnings"] == ["net: a warning from the training"]


def test_weights_to_start_from_are_told_and_identified_by_their_content(workshop: Workshop, tmp_path: Path) -> None:
    (tmp_path / "hub").mkdir()
    for count, content in enumerate((b"some", b"other"), start=1):
        (tmp_path / "hub" / "model.safetensors").write_bytes(content)
        workshop.run("--set", f"train.init={tmp_path / 'hub'}")
        assert workshop.noted()["epoch 1"] == count
        assert path_sha256(tmp_path / "hub") in [
            record["trainings"]["net"]["init_sha256"]  # type: ignore[index]
            for record in workshop.records()
        ]


def test_trust_in_weights_reaches_the_training_and_no_key(workshop: Workshop) -> None:
    workshop.run("--set", "train.init=pickle", status=1)
    (record,) = workshop.records()
    assert "needs unpickling" in record["error"]["message"]  # type: ignore[index]
    workshop.run("--set", "train.init=pickle", "--unpickle-weights")
    (record,) = workshop.records()
    assert record["status"] == "ok"
    assert record["trainings"]["net"]["init_sha256"] is None  # type: ignore[index]


def test_what_a_training_warned_of_before_it_was_killed_stands_in_the_record(workshop: Workshop) -> None:
    loop = "        while epoch <"
    start = "        if epoch == 0: context.warn('it starts at random')\n"
    workshop.adapter.write_text(AUDITED.replace(loop, start + loop))
    process = workshop.start("--set", "train.epochs=40")
    _wait_for(workshop, "epoch 3")
    process.kill()
    process.communicate()
    workshop.run("--set", "train.epochs=40")
    assert workshop.noted()["epoch 1"] == 1
    (record,) = workshop.records()
    assert record["warnings"] == ["net: it starts at random", "net: a warning from the training"]


def test_interrupting_a_training_leaves_a_record(workshop: Workshop) -> None:
    process = workshop.start("--set", "train.epochs=2000")
    _wait_for(workshop, "epoch 3")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Traceback" not in errors
    (record,) = workshop.records()
    assert record["status"] == "interrupted"


def test_results_of_another_prediction_are_not_in_the_record_of_a_crash(workshop: Workshop) -> None:
    workshop.run()
    workshop.adapter.write_text(AUDITED.replace("self.level = load_file", "os._exit(7); self.level = load_file"))
    workshop.run(status=1)
    (record,) = workshop.records()
    assert record["status"] == "crashed"
    assert record["images"] == []


def test_a_new_prediction_is_drawn_again(workshop: Workshop) -> None:
    workshop.run()
    (before, *_) = sorted(workshop.out.glob("squares/audited/*/overlays/*.png"))
    drawn = before.read_bytes()
    workshop.adapter.write_text(AUDITED.replace("return label(bright", "return label(~bright"))
    workshop.run()
    assert before.read_bytes() != drawn


def predict_job(data: Path, folder: Path, evaluator: str = "old") -> PredictJob:
    names = [sample.name for sample in open_dataset(data).samples]
    images = [PlannedImage(image=name, prediction_key="same", score_key=f"{name} {evaluator}") for name in names]
    return PredictJob(
        method="truth", adapters=(), values=find_method("truth").preset("quick"), dataset=data, seed=0, device="cpu",
        threads=1, checkpoints={}, folder=folder, images=tuple(images),
    )  # fmt: skip


def test_labels_that_cannot_be_written_end_the_job_and_are_no_fault_of_the_method(
    squares: Path, tmp_path: Path
) -> None:
    job = predict_job(squares, tmp_path / "run")
    job.folder.mkdir()
    (job.folder / "labels").write_text("where the folder should be")
    with pytest.raises(OSError, match="labels"):
        predict(job, find_method("truth").build(job.values), open_dataset(squares), lambda *_: None)
    assert read_images(job.folder) == []


def test_a_new_evaluator_scores_again_without_predicting(squares: Path, tmp_path: Path) -> None:
    dataset = open_dataset(squares)
    old, new = (predict_job(squares, tmp_path / "run", evaluator) for evaluator in ("old", "new"))
    predict(old, find_method("truth").build(old.values), dataset, lambda *_: None)
    before = read_images(tmp_path / "run")
    predict(new, find_method("empty").build(new.values), dataset, lambda *_: None)
    newest = {record.image: record for record in read_images(tmp_path / "run")}
    assert {record.score_key for record in newest.values()} == {planned.score_key for planned in new.images}
    for record in before:
        assert newest[record.image].seconds == record.seconds
        assert newest[record.image].scores == record.scores
        assert newest[record.image].extras == record.extras


def test_results_from_before_the_further_scores_are_not_scored_again(squares: Path, tmp_path: Path) -> None:
    job, dataset = predict_job(squares, tmp_path / "run"), open_dataset(squares)
    predict(job, find_method("truth").build(job.values), dataset, lambda *_: None)
    older = [record.model_dump(exclude={"extras"}) for record in read_images(job.folder)]
    (job.folder / "images.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in older))
    predict(job, find_method("empty").build(job.values), dataset, lambda *_: None)
    assert [record.model_dump() for record in read_images(job.folder)] == [{**line, "extras": None} for line in older]


def test_seeds_share_nothing_and_limit_marks_the_row(workshop: Workshop) -> None:
    workshop.run("--seed", "0", "1", "--limit", "1")
    first, second = workshop.records()
    assert {first["seed"], second["seed"]} == {0, 1}
    assert first["limit"] == 1
    assert first["trainings"]["net"]["key"] != second["trainings"]["net"]["key"]  # type: ignore[index]


def test_another_split_is_another_board(workshop: Workshop) -> None:
    dataset = open_dataset(workshop.data)
    names = [sample.name for sample in dataset.samples]
    for tested in (names[:4], names[4:8]):
        parts = {name: ["test"] if name in tested else ["train"] for name in names[:-1]} | {names[-1]: ["val"]}
        write_split(workshop.data, "fixed", parts)
        workshop.run("--method", "truth")
    first, second = workshop.records("truth")
    assert first["split"]["sha256"] != second["split"]["sha256"]  # type: ignore[index]
    assert first["dataset"] == second["dataset"]


def test_an_orphaned_worker_ends(workshop: Workshop) -> None:
    process = workshop.start("--set", "train.epochs=2000")
    _wait_for(workshop, "epoch 3")
    process.kill()
    process.communicate()
    time.sleep(1.5)
    noted = workshop.noted()
    time.sleep(1.0)
    assert workshop.noted() == noted


def test_a_method_without_torch_is_timed_on_a_gpu_too() -> None:
    code = (
        "from crystalbench.registry import find_method\n"
        "method = find_method('empty'); segmenter = method.build(method.preset('quick'))\n"
        "segmenter.load({}, 'cuda')\n"
        "with segmenter.stage('total'): pass\n"
        "print(sorted(segmenter.stages))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['total']"
