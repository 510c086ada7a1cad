"""Methods of our own, timed in turn: what is measured, what happens to bad ones, and what the board makes of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import make_squares
from filelock import FileLock

from crystalbench._files import write_atomic
from crystalbench.data import open_dataset, write_image, write_labels
from crystalbench.experiment._latency import spread_warnings
from crystalbench.experiment._time import ROUNDS, WARM_UP, warm_up_images
from crystalbench.leaderboard import load_records, rows, to_markdown

ADAPTER = """
import fcntl, os, time
from pathlib import Path
from typing import Literal
import numpy as np
from safetensors.numpy import save_file
from crystalbench import Component, MethodInfo, Parameters, Segmenter

NOTES = Path(os.environ["NOTES"])

def note(what):
    with (NOTES / "notes.txt").open("a") as file:
        file.write(what + "\\n")

class Decode(Parameters):
    backend: Literal["fast", "reference"] = "fast"

class Timed(Segmenter):
    info = MethodInfo(name="timed", title="Timed", licence="MIT")
    Decode = Decode
    calls = 0

    def predict(self, image):
        type(self).calls += 1
        note(f"{self.info.name} {self.decode_parameters.backend}")
        with self.stage("threshold"):
            time.sleep(0.01 if self.decode_parameters.backend == "fast" else 0.03)
            labels = (image[..., 0] > 128).astype(np.int32)
"""
RETURN = "        return labels\n"
TRAINED = """
    components = (Component("net", Parameters),)

    def fit(self, component, train, val, context):
        note(f"{self.info.name} fit")
        save_file({"level": np.zeros(1)}, context.folder / "checkpoint.safetensors")
"""
FAILS_TO_TRAIN = """
    components = (Component("net", Parameters),)

    def fit(self, component, train, val, context):
        raise RuntimeError("no luck")
"""
# Two of them never fit into memory together.
LARGE = """
    def load(self, checkpoints, device):
        super().load(checkpoints, device)
        self.memory = (NOTES / "memory").open("w")
        try:
            fcntl.flock(self.memory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise MemoryError("no room beside the other one") from None
"""


@dataclass
class Bench:
    """Adapters in files, and the commands that run and time them."""

    folder: Path
    data: Path

    def write(self, name: str, body: str = "") -> None:
        (self.folder / f"{name}.py").write_text(ADAPTER + (body or RETURN))

    def start(self, verb: str, methods: list[str], *extra: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "crystalbench", verb, "--data", str(self.data), "--threads", "1", *extra]
        command += ["--out", str(self.folder / "runs")]
        for name in methods:
            command += ["--method", name]
        for file in sorted(self.folder.glob("*.py")):
            command += ["--adapter", str(file)]
        # A lock of its own: tests in other processes time too.
        environment = os.environ | {"NOTES": str(self.folder), "XDG_CACHE_HOME": str(self.folder / "cache")}
        pipe = subprocess.PIPE
        return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True)

    def call(self, verb: str, methods: list[str], *extra: str, status: int = 0) -> tuple[str, str]:
        process = self.start(verb, methods, *extra)
        output, errors = process.communicate(timeout=240)
        assert process.returncode == status, errors
        return output, errors

    def time(self, methods: list[str], *extra: str, status: int = 0) -> dict[str, dict[str, Any]]:
        output, _ = self.call("time", methods, "--json", *extra, status=status)
        return {row["method"]: row for row in json.loads(output)}

    def timing(self, method: str, name: str = "latency.json") -> dict[str, Any]:
        (file,) = self.folder.glob(f"runs/*/{method}/*/{name}")
        return dict(json.loads(file.read_text()))

    def notes(self) -> list[str]:
        file = self.folder / "notes.txt"
        return file.read_text().splitlines() if file.exists() else []


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, make_squares(tmp_path / "squares", 8))


def test_methods_take_turns_and_everything_measured_is_kept(bench: Bench) -> None:
    bench.write("first", RETURN + TRAINED)
    bench.write("second", RETURN + TRAINED)
    found = bench.time(["first", "second", "empty"])
    n = len(open_dataset(bench.data).split().test)
    counted = [note for note in bench.notes() if "fit" not in note][-4 * ROUNDS * n :]
    assert counted == ["first fast", "first reference", "second fast", "second reference"] * ROUNDS * n
    assert list(found)[-1] == "empty"
    for name in ("first", "second"):
        timing, reference = bench.timing(name), bench.timing(name, "latency_reference.json")
        seconds = np.array([image["seconds"] for image in timing["images"]])
        assert seconds.shape == (n, ROUNDS)
        low, median, high, p95 = np.percentile(seconds, [25, 50, 75, 95])
        told = [timing["latency"][key] for key in ("mean_s", "median_s", "iqr_s", "p95_s")]
        assert told == pytest.approx([seconds.mean(), median, high - low, p95])
        assert 0.01 < timing["latency"]["stages"]["threshold"] <= timing["latency"]["mean_s"]
        assert reference["latency"]["mean_s"] > 0.03
        assert timing["warm_up"] == WARM_UP + 1
        assert len(timing["beside"]) == 4
        assert found[name]["latency_s"] == timing["latency"]["mean_s"]
        assert found[name]["latency_reference_s"] == reference["latency"]["mean_s"]
        assert found[name]["peak_gpu_bytes"] is None
    fastest = min(found[name]["latency_s"] for name in ("first", "second"))
    assert all(row["ratio"] == pytest.approx(row["latency_s"] / fastest) for row in found.values())


def test_what_is_trained_and_timed_is_not_done_again_unless_asked(bench: Bench) -> None:
    bench.write("first", RETURN + TRAINED)
    bench.call("run", ["first"])
    before = bench.time(["first"])
    assert bench.notes().count("first fit") == 1
    calls = len(bench.notes())
    table, errors = bench.call("time", ["first"])
    assert len(bench.notes()) == calls
    assert "first, seed 0: timed before" in errors
    assert all(word in table for word in ("mean", "median", "IQR", "p95", "ratio", "threshold", "1 threads"))
    again = bench.time(["first"], "--retime")
    assert len(bench.notes()) > calls
    assert again["first"]["latency_s"] != before["first"]["latency_s"]


def test_the_board_shows_what_was_timed_as_long_as_the_method_is_the_same(bench: Bench) -> None:
    bench.write("first")
    bench.call("run", ["first", "truth"])
    runs = bench.folder / "runs"
    own = {row.method: row.latency_s for row in rows(load_records([runs]))}
    timed = bench.time(["first"])["first"]
    board = {row.method: row for row in rows(load_records([runs]))}
    assert board["first"].latency_s == timed["latency_s"] != own["first"]
    assert board["first"].latency_stages == timed["latency_stages"]
    assert board["first"].latency_reference_s == timed["latency_reference_s"]
    assert str(board["first"].latency_conditions).endswith(timed["conditions"].rpartition(";")[2])
    assert board["truth"].latency_s == own["truth"]
    assert "Latencies of different machines or protocols" in to_markdown(list(board.values()))
    (record,) = runs.glob("squares/first/*/record.json")
    published = bench.folder / "published" / f"{record.parent.name}.json"
    for file in (record, record.with_name("latency.json")):
        name = published.name if file == record else f"{published.stem}.{file.name}"
        write_atomic(published.with_name(name), file.read_bytes())
    (row,) = rows(load_records([published.parent]))
    assert (row.latency_s, row.latency_reference_s) == (timed["latency_s"], None)
    bench.write("first", "        labels = labels * 2\n" + RETURN)
    bench.call("run", ["first"])
    (row,) = rows(record for record in load_records([runs]) if record.method == "first")
    assert str(row.latency_conditions).partition("; ")[2].startswith("run-1")
    assert row.latency_reference_s is None


def test_bad_methods_get_a_status_and_the_others_go_on(bench: Bench) -> None:
    calls = WARM_UP + 1 + 2
    bench.write("dies", f"        if self.calls == {calls}:\n            os._exit(7)\n" + RETURN)
    bench.write("hangs", f"        if self.calls == {calls}:\n            time.sleep(600)\n" + RETURN)
    bench.write("fails", f"        if self.calls == {calls}:\n            raise RuntimeError('no luck')\n" + RETURN)
    bench.write("shapeless", "        return labels[1:]\n")
    bench.write("elsewhere", RETURN + "\n    def latency(self, measured):\n        return None\n")
    bench.write("untrained", RETURN + FAILS_TO_TRAIN)
    bench.write("good")
    names = ["dies", "hangs", "fails", "shapeless", "elsewhere", "untrained", "good"]
    found = bench.time(names, "--timeout", "15", status=1)
    told = {name: (row["status"], row["error"] and row["error"]["type"]) for name, row in found.items()}
    assert told == {
        "dies": ("crashed", "Crash"),
        "hangs": ("timeout", "Timeout"),
        "fails": ("failed", "RuntimeError"),
        "shapeless": ("failed", "LabelError"),
        "elsewhere": ("failed", "ConfigurationError"),
        "untrained": ("failed", "RuntimeError"),
        "good": ("ok", None),
    }
    assert next(iter(found)) == "good"
    assert bench.timing("dies")["status"] == "crashed"
    assert "no luck" in bench.timing("fails")["error"]["log_tail"]
    assert found["good"]["n"] == ROUNDS * len(open_dataset(bench.data).split().test)
    bench.write("dies")
    assert bench.time(["dies"])["dies"]["status"] == "ok"


def test_where_memory_is_short_methods_are_timed_in_blocks(bench: Bench) -> None:
    for name in ("large", "larger"):
        bench.write(name, RETURN + LARGE)
    bench.write("small")
    names = ["large", "larger", "small"]
    settings = [part for name in names for part in ("--set", f"{name}.decode.backend=reference")]
    output, errors = bench.call("time", names, "--json", *settings)
    assert {row["method"]: row["status"] for row in json.loads(output)} == dict.fromkeys(names, "ok")
    assert errors.count("memory is short") == 1
    assert bench.timing("large")["beside"] == []
    assert bench.timing("larger")["beside"] == ["small, seed 0"]
    assert all(row["latency_s"] == row["latency_reference_s"] for row in json.loads(output))


def test_methods_are_not_ranked_by_different_backends(bench: Bench) -> None:
    bench.write("first")
    bench.write("second")
    _, errors = bench.call("time", ["first", "second"], "--set", "first.decode.backend=reference", status=2)
    assert "one decode.backend, not several (first: reference, second: fast)" in errors
    assert bench.notes() == []


def test_two_runs_on_one_machine_never_time_at_once(bench: Bench) -> None:
    bench.write("first")
    bench.time(["first"])
    (lock,) = bench.folder.glob("cache/crystalbench/time-*.lock")
    calls = len(bench.notes())
    with FileLock(lock):
        process = bench.start("time", ["first"], "--retime")
        assert process.stderr is not None
        line = process.stderr.readline()
        assert "another `crystalbench time` is running on this machine" in line
        time.sleep(0.5)
        assert len(bench.notes()) == calls
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert len(bench.notes()) > calls


def test_a_spread_is_warned_of_and_told_apart_from_unlike_images() -> None:
    steady = np.linspace(1.0, 1.05, 30).reshape(10, 3)
    assert spread_warnings(steady.tolist()) == []
    unlike = steady * np.linspace(1, 2, 10)[:, None]
    (warning,) = spread_warnings(unlike.tolist())
    assert "the images differ" in warning
    drifting = steady * [1.0, 1.2, 1.5]
    (warning,) = spread_warnings(drifting.tolist())
    assert "something disturbs this machine" in warning


def test_a_method_that_slows_down_is_warned_of(bench: Bench) -> None:
    bench.write("slows", "        time.sleep(0.02 * (self.calls % 3))\n" + RETURN)
    bench.time(["slows"])
    (warning,) = bench.timing("slows")["warnings"]
    assert "interquartile range" in warning
    assert "something disturbs this machine" in warning


def test_every_shape_is_warmed_up(tmp_path: Path) -> None:
    for number, side in enumerate((32, 48, 32, 64)):
        write_image(tmp_path / "images" / f"{number}.png", np.zeros((side, 40, 3), np.uint8))
        write_labels(tmp_path / "labels", str(number), np.ones((side, 40), np.int32))
    images = warm_up_images(open_dataset(tmp_path).samples)
    assert len(images) == WARM_UP + 3
    assert set(images[WARM_UP:]) == {"0", "1", "3"}
