"""Methods that misbehave, each beside a good one: the run ends, the records say what happened, nothing else suffers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from conftest import make_squares

from crystalbench._exceptions import LabelError
from crystalbench.cli import main
from crystalbench.data import open_dataset, write_split
from crystalbench.experiment import _watch
from crystalbench.experiment._jobs import LOG_FILE, PROGRESS_FILE, Progress, read_progress
from crystalbench.experiment._local import _POLL_S
from crystalbench.experiment._log import KEPT_BYTES, CappedLog, log_tail
from crystalbench.experiment._memory import find_groups, free_memory, held_memory
from crystalbench.experiment._predict import check_labels
from crystalbench.experiment._watch import Limits, Watch

ADAPTER = """
import ctypes, os, subprocess, sys, time
from pathlib import Path
import numpy as np
from crystalbench import Component, MethodInfo, Parameters, Segmenter

NOTES = Path(os.environ["NOTES"])

def start_child(name, **options):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], **options)
    (NOTES / name).write_text(str(child.pid))

class Bad(Segmenter):
    info = MethodInfo(name="bad", title="Bad", licence="MIT")
"""

PREDICT = """
    def predict(self, image):
        labels = (image[..., 0] > 128).astype(np.int32)
"""

BAD: dict[str, str] = {
    "answers": """
        self.calls = getattr(self, "calls", -1) + 1  # the first call is the warm-up
        if self.calls == 1:
            raise RuntimeError("no luck")
        if self.calls == 2:
            sys.exit(3)
        if self.calls == 6:
            self.details["loss"] = float("nan")
        wrong = {3: labels[1:], 4: np.full(labels.shape, np.nan), 5: labels - 1}
        return wrong.get(self.calls, labels)
""",
    "vanishes": "        os._exit(0)",
    "segfaults": "        ctypes.string_at(0)",
    # It gives up before it harms the machine, should nobody stop it.
    "eats": "        eaten = [np.ones(10**7) for _ in range(60)]\n        return labels",
    "leaves_a_child": "        start_child('left')\n        os._exit(3)",
    "babbles": """
        print("the beginning")
        for _ in range(1000):
            sys.stdout.buffer.write(b"\\x1b\\xff" * 500_000)
        print("\\nthe end")
        return labels
""",
}

EXITS_IN_FIT = """
    components = (Component("net", Parameters),)

    def fit(self, component, train, val, context):
        context.report(1, 2)
        sys.exit(0)
"""

# Warms up, predicts the first image, and goes no further until it is told to.
HANGS = """
        self.calls = getattr(self, "calls", 0) + 1
        if self.calls == 3 and not (NOTES / "mended").exists():
            start_child("own_session", start_new_session=True)
            time.sleep(600)
        return labels
"""

# Holds the interpreter's lock, so that no thread of its own process can end it.
HOLDS_THE_LOCK = """
        start_child("child")
        (NOTES / "worker").write_text(str(os.getpid()))
        ctypes.PyDLL(None).pause()
"""


@dataclass
class Bench:
    """Adapters in files, and the command that runs them."""

    folder: Path
    data: Path

    def write(self, name: str, body: str) -> None:
        (self.folder / f"{name}.py").write_text(ADAPTER + body)

    def start(self, methods: list[str], *extra: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "crystalbench", "run", "--data", str(self.data), "--threads", "1", *extra]
        command += ["--out", str(self.folder / "runs")]
        for name in methods:
            command += ["--method", name]
        for file in self.folder.glob("*.py"):
            command += ["--adapter", str(file)]
        environment = os.environ | {"NOTES": str(self.folder)}
        pipe = subprocess.PIPE
        return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True)

    def record(self, method: str) -> dict[str, Any]:
        (file,) = self.folder.glob(f"runs/squares/{method}/*/record.json")
        return dict(json.loads(file.read_text()))

    def log(self, method: str) -> Path:
        (file,) = self.folder.glob(f"runs/squares/{method}/*/log.txt")
        return file

    def process(self, name: str) -> psutil.Process | None:
        """Return the process that an adapter noted, None where it has ended."""
        try:
            process = psutil.Process(int((self.folder / name).read_text()))
            return None if process.status() == psutil.STATUS_ZOMBIE else process
        except psutil.NoSuchProcess:
            return None

    def wait_for(self, name: str) -> None:
        deadline = time.monotonic() + 60
        while not (self.folder / name).exists() or not (self.folder / name).read_text():
            assert time.monotonic() < deadline
            time.sleep(0.1)


def _finish(process: subprocess.Popen[str], status: int = 1) -> str:
    output, errors = process.communicate(timeout=300)
    assert process.returncode == status, errors
    return output + errors


def _new_bench(folder: Path) -> Bench:
    data = make_squares(folder / "squares", 12)
    subsets = ["train"] * 4 + ["val"] + ["test"] * 7
    parts = {sample.name: [subset] for sample, subset in zip(open_dataset(data).samples, subsets, strict=True)}
    write_split(data, "fixed", parts)
    return Bench(folder, data)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return _new_bench(tmp_path)


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """One run of all the bad methods beside a good one."""
    bench = _new_bench(tmp_path_factory.mktemp("bad"))
    for name, body in BAD.items():
        bench.write(name, PREDICT + body)
    bench.write("exits_in_fit", EXITS_IN_FIT)
    _finish(bench.start([*BAD, "exits_in_fit", "truth"], "--max-memory", "1"))
    return bench


@pytest.mark.parametrize(
    ("method", "status", "kind", "message"),
    [
        ("answers", "failed", "ImageFailed", "RuntimeError: no luck"),
        ("exits_in_fit", "failed", "SystemExit", "0"),
        ("vanishes", "crashed", "Crash", "exit status 0 before its work was done"),
        ("segfaults", "crashed", "Crash", "SIGSEGV"),
        ("eats", "oom", "OutOfMemory", "--max-memory allows 1.0 GB"),
        ("leaves_a_child", "crashed", "Crash", "exit status 3"),
    ],
)
def test_the_record_says_what_happened(bad: Bench, method: str, status: str, kind: str, message: str) -> None:
    record = bad.record(method)
    assert (record["status"], record["error"]["type"]) == (status, kind)
    assert message in record["error"]["message"]
    assert "log_tail" in record["error"]


def test_each_wrong_answer_is_told_and_the_other_images_are_kept(bad: Bench) -> None:
    *errors, last = [str(image["error"]) for image in bad.record("answers")["images"]]
    assert last == "None"
    expected = (
        "RuntimeError: no luck",
        "SystemExit: 3",
        "the method returned labels of shape (47, 64) for an image of (48, 64)",
        "the method returned float64, not an array of integer labels",
        "the method returned labels below 0 or beyond 32 bit",
        "ValueError: what the method tells as details is not plain JSON: Out of range float values",
    )
    assert all(error.startswith(text) for error, text in zip(errors, expected, strict=True))


def test_the_method_beside_them_is_not_touched(bad: Bench) -> None:
    record = bad.record("truth")
    assert record["status"] == "ok"
    assert record["summary"]["pq"] == 1
    assert len(record["images"]) == record["n_planned"] > 1


def test_a_fast_eater_is_stopped_soon(bad: Bench) -> None:
    held = float(bad.record("eats")["error"]["message"].split()[3])
    assert 1 <= held < 3


READS = """
    def reads(self, sample):
        raise KeyError("no such file for " + sample.name)
"""

# Loads once; later it ends without a word.
FAILS_THEN_VANISHES = """
        raise RuntimeError("an old error")

    def load(self, checkpoints, device):
        if (NOTES / "second").exists():
            os._exit(7)
"""


def test_what_a_method_says_of_files_and_latency_can_fail_alone(bench: Bench) -> None:
    bench.write("reads", READS)
    bench.write("latency", PREDICT + "        return labels\n\n    def latency(self, measured): return float('inf')\n")
    _finish(bench.start(["reads", "latency", "truth"]))
    record = bench.record("reads")
    assert (record["status"], record["error"]["type"]) == ("failed", "KeyError")
    assert "no such file for square" in record["error"]["message"]
    assert "in reads" in record["error"]["log_tail"]
    assert "what the method tells as seconds is not plain JSON" in bench.record("latency")["error"]["message"]
    assert bench.record("truth")["status"] == "ok"


def test_an_attempt_is_told_by_what_it_did_itself(bench: Bench) -> None:
    bench.write("fails", PREDICT + FAILS_THEN_VANISHES)
    _finish(bench.start(["fails"]))
    assert bench.record("fails")["status"] == "failed"
    (bench.folder / "second").touch()
    _finish(bench.start(["fails"]))
    record = bench.record("fails")
    assert record["status"] == "crashed"
    assert record["images"] == []
    assert "an old error" not in json.dumps(record)
    assert "an old error" in bench.log("fails").read_text()


def test_children_end_with_their_worker(bad: Bench) -> None:
    assert bad.process("left") is None


def test_a_gigabyte_of_prints_leaves_a_short_log_that_can_be_read(bad: Bench) -> None:
    assert bad.record("babbles")["status"] == "ok"
    log = bad.log("babbles")
    assert log.stat().st_size < 4 * KEPT_BYTES
    text = log.read_bytes()
    assert text.startswith(b"the beginning\n")
    assert text.endswith(b"the end\n")
    assert b" bytes left out ..." in text
    assert log_tail(log.parent).splitlines()[-1] == "the end"
    assert "\x1b" not in log_tail(log.parent)


def test_a_hanging_method_times_out_and_the_same_command_goes_on_where_it_stood(bench: Bench) -> None:
    bench.write("hangs", PREDICT + HANGS)
    printed = _finish(bench.start(["hangs"], "--timeout", "10"))
    assert "hangs timeout: see" in printed
    record = bench.record("hangs")
    assert (record["status"], record["error"]["type"]) == ("timeout", "Timeout")
    assert "no progress for 10 s" in record["error"]["message"]
    assert bench.process("own_session") is None
    (bench.folder / "mended").touch()
    _finish(bench.start(["hangs"]), status=0)
    mended = bench.record("hangs")
    assert mended["status"] == "ok"
    assert record["images"] == mended["images"][:1]
    assert len(mended["images"]) == mended["n_planned"] > 1


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_worker_and_children_end_with_the_driver_even_where_the_lock_is_held(bench: Bench, how: int) -> None:
    bench.write("holds", PREDICT + HOLDS_THE_LOCK)
    driver = bench.start(["holds"])
    bench.wait_for("worker")
    driver.send_signal(how)
    driver.communicate(timeout=30)
    deadline = time.monotonic() + 10
    while bench.process("worker") or bench.process("child"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    if how == signal.SIGINT:
        assert bench.record("holds")["status"] == "interrupted"


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros((4, 5)), "float64"),
        (np.zeros((4, 5), bool), "bool"),
        (np.full((4, 5), None), "object"),
        ([[0] * 5] * 4, "list"),
        (None, "NoneType"),
        (np.zeros((5, 4), int), r"shape \(5, 4\) for an image of \(4, 5\)"),
        (np.zeros((4, 5, 1), int), r"shape \(4, 5, 1\)"),
        (np.full((4, 5), -1), "below 0"),
        (np.full((4, 5), 2**31), "beyond 32 bit"),
    ],
)
def test_wrong_answers_are_refused(labels: object, message: str) -> None:
    with pytest.raises(LabelError, match=message):
        check_labels(labels, (4, 5))


def test_a_second_attempt_adds_to_the_log(tmp_path: Path) -> None:
    file = tmp_path / LOG_FILE
    for attempt in (b"first", b"second"):
        with CappedLog(file) as log:
            for number in range(7):
                log.write(b"%s %d" % (attempt, number) + b"." * KEPT_BYTES)
            log.write(b"\nlast of %s\n" % attempt)
    text = file.read_bytes()
    assert len(text) < 7 * KEPT_BYTES
    assert all(attempt in text for attempt in (b"first 0", b"last of first\n", b"second 0", b"last of second\n"))
    assert b"second 2" not in text
    assert log_tail(tmp_path).endswith("last of second")


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    with CappedLog(tmp_path / LOG_FILE) as log:
        for _ in range(100):
            log.write(b"x" * (KEPT_BYTES // 7))
    head, rest = (tmp_path / LOG_FILE).read_bytes().split(b"\n... ")
    count, tail = rest.split(b" bytes left out ...\n")
    assert len(head) == KEPT_BYTES
    assert len(head) + int(count) + len(tail) == 100 * (KEPT_BYTES // 7)


def test_memory_that_processes_share_counts_once() -> None:
    code = (
        "import os, time; held = b'1' * 200_000_000\n"
        "for _ in range(3):\n"
        "    if not os.fork(): time.sleep(60)\n"
        "print('ready', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert held_memory(process.pid, 10e9) > 800e6
        assert 200e6 < held_memory(process.pid, 500e6) < 400e6
        os.killpg(process.pid, signal.SIGKILL)


def test_a_worker_is_ended_while_the_machine_still_has_a_reserve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_watch, "_LEAST_RESERVE", 1e6)
    watch = Watch(os.getpid(), Limits())
    assert watch.verdict(Progress()) is None
    # To fill the machine for real would harm whatever else runs on it.
    monkeypatch.setattr(_watch, "free_memory", lambda _: 1000)
    outcome = watch.verdict(Progress())
    assert outcome is not None
    assert outcome.status == "oom"


def test_of_several_workers_the_one_that_holds_most_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_watch, "_LEAST_RESERVE", 1e6)
    monkeypatch.setattr(_watch, "free_memory", lambda _: 1000)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        large, small = Watch(os.getpid(), Limits()), Watch(process.pid, Limits())
        for watch in (large, small):
            watch.restart()
        assert small.verdict(Progress()) is None
        assert large.verdict(Progress()) is not None
        # One that waits for its turn is nobody's rival.
        large.rest()
        assert small.verdict(Progress()) is not None
        small.rest()
        process.kill()


def test_the_reserve_is_a_share_of_what_the_container_has() -> None:
    assert _watch.reserve([64 * 10**9]) == 2e9
    assert _watch.reserve([64 * 10**9, 20 * 10**9]) == 1e9
    assert _watch.reserve([64 * 10**9, 10**9]) == 0.5e9


@pytest.mark.parametrize("version", [1, 2])
def test_a_control_group_that_allows_less_counts(tmp_path: Path, version: int) -> None:
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if version == 1 else ("memory.max", "memory.current")
    root = tmp_path / "memory" if version == 1 else tmp_path
    (root / "batch" / "job").mkdir(parents=True)
    for folder, limit in ((root / "batch", "5000"), (root / "batch" / "job", "max" if version == 2 else str(2**62))):
        (folder / names[0]).write_text(f"{limit}\n")
        (folder / names[1]).write_text("3000\n")
        (folder / "memory.stat").write_text(
            "anon 1\ninactive_file 500\nactive_file 100\ntotal_inactive_file 500\ntotal_active_file 100\n"
        )
    table = tmp_path / "table"
    table.write_text("9:cpu,cpuacct:/\n4:memory:/batch/job\n0::/\n" if version == 1 else "0::/batch/job\n")
    groups = find_groups(tmp_path, table)
    assert [group.free() for group in groups] == [2600]
    assert free_memory(groups) == 2600
    assert free_memory([]) <= psutil.virtual_memory().total


def test_a_loss_that_is_not_a_number_leaves_the_progress_known(tmp_path: Path) -> None:
    progress = Progress(step=3, total=9, scalars={"loss": float("nan")})
    (tmp_path / PROGRESS_FILE).write_text(progress.model_dump_json())
    assert read_progress(tmp_path).step == 3


@pytest.mark.parametrize("amount", ["0", "nan", "inf", "soon"])
@pytest.mark.parametrize("flag", ["--timeout", "--max-memory"])
def test_a_limit_is_a_number_above_0(flag: str, amount: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["run", "--method", "truth", flag, amount])
    assert f"{flag}: '{amount}' is no number above 0" in capsys.readouterr().err


def test_watching_costs_next_to_nothing() -> None:
    watch = Watch(os.getpid(), Limits(timeout=1e9, memory=1e15))
    begin = time.process_time()
    for _ in range(100):
        assert watch.verdict(Progress()) is None
    assert (time.process_time() - begin) / 100 < 0.01 * _POLL_S
