"""Jobs side by side: what runs when, what each leaves, and how all of them end."""

from __future__ import annotations

import io
import json
import signal
import sys
from concurrent.futures import CancelledError
from pathlib import Path
from threading import Event, Thread

import pytest
from rich.console import Console
from searched import SEARCH, Workshop, wait_until, workers

from crystalbench._exceptions import ConfigurationError
from crystalbench.cli import main
from crystalbench.data import open_dataset
from crystalbench.experiment import Limits, Local, Request, Run, TimeRun, plan
from crystalbench.experiment import _ray as ray_executor
from crystalbench.experiment._executors import Slots, side_by_side
from crystalbench.experiment._jobs import PredictJob, Progress, TrainJob
from crystalbench.experiment._latency import UNTIMED
from crystalbench.experiment._local import _environment
from crystalbench.experiment._progress import BarReporter, Reporter
from crystalbench.leaderboard import load_records

BASIS = {
    "method": "truth", "adapters": (), "values": {}, "dataset": Path("x"), "seed": 0, "device": "cuda", "threads": 1,
    "checkpoints": {}, "folder": Path("y"),
}  # fmt: skip


def prediction(gpus: float = 0.0) -> PredictJob:
    return PredictJob(**BASIS, images=(), gpus=gpus)


def training() -> TrainJob:
    return TrainJob(**BASIS, component="net", split="fixed", key="z")


class Holder:
    """Threads that hold slots until they are told to let go."""

    def __init__(self, slots: Slots) -> None:
        self.slots = slots
        self.begun: list[tuple[str, str | None]] = []
        self._release: dict[str, Event] = {}

    def ask(self, name: str, job: PredictJob | TrainJob) -> None:
        self._release[name] = release = Event()
        waiting = len(self.slots._waiting)
        Thread(target=self._hold, args=(name, job, release), daemon=True).start()
        wait_until(lambda: self.has_begun(name) or len(self.slots._waiting) > waiting)

    def has_begun(self, name: str) -> bool:
        return name in dict(self.begun)

    def release(self, name: str) -> None:
        count = len(self.begun)
        self._release[name].set()
        wait_until(lambda: len(self.begun) > count)

    def _hold(self, name: str, job: PredictJob | TrainJob, release: Event) -> None:
        with self.slots.taken(job) as gpu:
            self.begun.append((name, gpu))
            release.wait()


def test_predictions_go_before_trainings_and_else_the_first_that_came() -> None:
    holder = Holder(Slots(1))
    for name, job in (("first", training()), ("second", training()), ("third", training()), ("end", prediction())):
        holder.ask(name, job)
    assert holder.begun == [("first", None)]
    for name in ("first", "end", "second"):
        holder.release(name)
    assert [name for name, _ in holder.begun] == ["first", "end", "second", "third"]


def test_jobs_share_gpus_as_far_as_these_hold_them() -> None:
    holder = Holder(Slots(9, ["GPU-a", "GPU-b"]))
    for number, share in enumerate((1.0, 0.3, 0.3, 0.4, 0.5)):
        holder.ask(str(number), prediction(share))
    assert holder.begun == [("0", "GPU-a"), ("1", "GPU-b"), ("2", "GPU-b"), ("3", "GPU-b")]
    holder.release("0")
    assert holder.begun[-1] == ("4", "GPU-a")
    assert _environment(1, "GPU-a", own=True)["CUDA_VISIBLE_DEVICES"] == "GPU-a"
    holder.slots.stop()
    with pytest.raises(CancelledError), holder.slots.taken(prediction()):
        pass


def test_an_error_ends_what_runs_beside_it_and_keeps_the_rest_from_beginning() -> None:
    executor, ended, begun = Local(2), [], Event()

    def runs() -> None:
        begun.set()
        wait_until(lambda: executor._slots.stopped)
        ended.append("second")

    def fails() -> None:
        begun.wait()
        raise ConfigurationError("wrong")

    with pytest.raises(ConfigurationError, match="wrong"):
        side_by_side([runs, fails, lambda: ended.append("third")], 2, executor)
    assert ended[0] == "second"


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path, SEARCH)


def test_experiments_side_by_side_share_trainings_and_keep_no_latency(workshop: Workshop) -> None:
    dataset, adapters = open_dataset(workshop.data), (str(workshop.adapter),)
    experiments = [
        experiment
        for threshold in (13, 90, 120)
        for experiment in plan(
            Request(("searched",), dataset, settings=(f"decode.threshold={threshold}",), adapters=adapters, threads=1,
                    out=workshop.out),
            print,
        )
    ]  # fmt: skip
    reporter = Reporter(Console(file=io.StringIO()))
    records = Run(experiments, reporter, executor=Local(3))()
    assert [record.status for record in records] == ["failed", "ok", "ok"]
    assert [record.parameters["decode"]["threshold"] for record in records] == [13, 90, 120]
    assert sorted(workshop.trained().elements()) == [
        *("train head 0.0", "train net 0.0 epoch 1", "train net 0.0 epoch 2", "train net 0.0 epoch 3")
    ]
    assert {(record.latency, UNTIMED in record.warnings) for record in records[1:]} == {(None, True)}
    # One after the other has nothing to do again, and timing them says what is missing.
    assert Run(experiments[1:], reporter)() == records[1:]
    TimeRun(experiments[1:2], reporter)()
    board = {record.key: record for record in load_records([workshop.out])}
    timed, untimed = (board[experiment.key] for experiment in experiments[1:])
    assert timed.latency
    assert (timed.warnings, untimed.warnings) == ([], [UNTIMED])


def test_ctrl_c_ends_all_workers_and_leaves_records_of_what_ran(workshop: Workshop) -> None:
    many = ("--seed", "0", "1", "2", "--jobs", "2", "--set", "train.net.epochs=2000")
    driver = workshop.start("run", *many)
    wait_until(lambda: len(workers(workshop.out)) == 2 and workshop.noted()["train net 0.0 epoch 2"] == 2)
    driver.send_signal(signal.SIGINT)
    _, errors = driver.communicate(timeout=120)
    assert driver.returncode == 1
    assert "Traceback" not in errors
    assert not workers(workshop.out)
    records = [json.loads(file.read_text()) for file in workshop.out.glob("squares/searched/*/record.json")]
    assert [record["status"] for record in records] == ["interrupted"] * 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--address", "auto"], "add --executor ray"),
        (["--executor", "ray", "--address", "ray://head:10001"], "give auto or HOST:PORT"),
        (["--executor", "ray", "--address", "127.0.0.1:1"], "no Ray cluster can be reached there"),
    ],
)
def test_wrong_addresses_are_clear(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--method", "truth", "--out", str(tmp_path), *options]) == 2
    assert message in capsys.readouterr().err


def test_without_ray_the_error_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["run", "--method", "truth", "--executor", "ray"]) == 2
    assert "pip install 'crystalbench[ray]'" in capsys.readouterr().err


def test_a_node_that_does_not_see_the_files_says_so(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_executor, "_LAG_S", 0.0)
    out = tmp_path / "run"
    job = prediction().model_copy(update={"dataset": squares, "folder": out})
    call = (job, Limits(), Path(sys.executable), tmp_path, out / ".sent")
    assert f"does not see {out} as the driver does" in str(ray_executor._run_on_node(*call))
    # Of the same name, but on a disk of its own.
    out.mkdir()
    assert f"does not see {out / '.sent'} as the driver does" in str(ray_executor._run_on_node(*call))


def test_a_share_of_gpus_is_above_0_and_at_most_1(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    workshop.adapter.with_suffix(".yaml").write_text("{method: searched, info: {title: T, licence: MIT, gpus: 2}}")
    assert main(["methods", "--adapter", str(workshop.adapter)]) == 2
    assert "gpus" in capsys.readouterr().err


def test_bars_of_several_jobs_are_shown_at_once() -> None:
    out = io.StringIO()
    reporter = BarReporter(Console(file=out, force_terminal=True, width=100, color_system=None))
    with reporter.task("first") as first, reporter.task("second") as second, reporter.task("waits"):
        first(Progress(step=1, total=3))
        second(Progress(step=2, total=3))
        drawn = out.getvalue().rpartition("\x1b[2K")[2]
        assert [line.split()[0] for line in drawn.splitlines()] == ["first", "second"]
        reporter.say("news")
    assert "news" in out.getvalue()
    assert "waits" not in out.getvalue()
