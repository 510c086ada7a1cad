"""A small method with a search that writes down everything it does, and a database for its study."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
import psutil
import yaml
from conftest import make_squares

ADAPTER = """
import json, os, time
from pathlib import Path
import numpy as np
from safetensors.numpy import load_file, save_file
from skimage.measure import label
from crystalbench import Component, MethodInfo, Parameters, Segmenter

NOTES = Path(os.environ.get("NOTES", Path(__file__).with_name("notes.txt")))

def note(what):
    with NOTES.open("a") as file:
        file.write(what + "\\n")

class NetTrain(Parameters):
    level: float = 0
    epochs: int = 3

class HeadTrain(Parameters):
    offset: float = 0

class Infer(Parameters):
    gain: float = 1.0

class Decode(Parameters):
    threshold: float = 100.0

class Searched(Segmenter):
    info = MethodInfo(name="searched", title="Searched", licence="MIT")
    components = (Component("net", NetTrain), Component("head", HeadTrain))
    Infer, Decode = Infer, Decode

    def fit(self, component, train, val, context):
        own = self.train[component]
        if component == "head":
            note(f"train head {own.offset}")
            save_file({"head": np.array([own.offset])}, context.folder / "checkpoint.safetensors")
            return
        if own.level == 13 and not NOTES.with_name("mended").exists():
            note("fails")
            raise RuntimeError("no luck with 13")
        state = context.folder / "state.json"
        epoch = json.loads(state.read_text()) if state.exists() else 0
        while epoch < own.epochs:
            time.sleep(0.1)
            epoch += 1
            temporary = state.with_suffix(".new")
            temporary.write_text(json.dumps(epoch))
            temporary.replace(state)
            note(f"train net {own.level} epoch {epoch}")
            context.report(epoch, own.epochs)
        save_file({"net": np.array([own.level])}, context.folder / "checkpoint.safetensors")

    def load(self, checkpoints, device):
        super().load(checkpoints, device)
        self.level = sum(float(load_file(file)[name][0]) for name, file in checkpoints.items())

    def infer(self, image):
        time.sleep(0.02)
        note(f"infer {self.level} {self.infer_parameters.gain} {int(image.sum())}")
        return image[..., 0] * self.infer_parameters.gain + self.level

    def decode(self, raw, parameters):
        if parameters.threshold == 13:
            raise RuntimeError("no luck with this point")
        return label(raw > parameters.threshold, connectivity=1).astype(np.int32)
"""

SEARCH = """
train:
  net: {level: [200, 0]}
  head: {offset: [70, 5]}
infer: {gain: [0.1, 1.0]}
decode: {threshold: [30, 120]}
"""

POSTGRES = next(Path("/usr/lib/postgresql").glob("*/bin"), None)


class Workshop:
    """A data set, an adapter with a search, and the commands that run it."""

    def __init__(self, folder: Path, search: str = SEARCH) -> None:
        self.folder = folder
        self.adapter = folder / "searched.py"
        self.adapter.write_text(ADAPTER)
        self.write(search)
        self.notes = folder / "notes.txt"
        self.notes.touch()
        self.data = make_squares(folder / "squares", 12)
        self.out = folder / "runs"
        self.tune_folder = self.out / "squares" / self.adapter.stem / "tune"

    def write(self, search: str) -> None:
        settings = {"method": "searched", "search": yaml.safe_load(search), "presets": {"quick": {}, "standard": {}}}
        self.adapter.with_suffix(".yaml").write_text(yaml.safe_dump(settings))

    def start(self, verb: str, *extra: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "crystalbench", verb, "--method", self.adapter.stem]
        command += [
            "--adapter",
            str(self.adapter),
            "--data",
            str(self.data),
            "--out",
            str(self.out),
            "--threads",
            "1",
            *extra,
        ]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True)

    def run(self, verb: str, *extra: str, status: int = 0) -> str:
        return finish(self.start(verb, *extra), status)

    def noted(self) -> Counter[str]:
        return Counter(self.notes.read_text().splitlines())

    def trained(self) -> Counter[str]:
        return Counter({note: count for note, count in self.noted().items() if note.startswith("train")})

    def points(self) -> dict[str, dict[str, Any]]:
        files = sorted(self.tune_folder.glob("*/point-*.json"))
        return {file.name: json.loads(file.read_text()) for file in files}

    def scored(self) -> dict[str, list[Any]]:
        """Return what each point scored, without what differs from run to run."""
        told = ("image", "status", "error", "pq", "tp", "fp", "fn", "aji", "acs_relative_error")
        return {
            name: [
                point["parameters"],
                point["status"],
                point["pq"],
                [[i[key] for key in told] for i in point["images"]],
            ]
            for name, point in self.points().items()
        }

    def images(self) -> dict[str, list[dict[str, Any]]]:
        """Return the results of all images by experiment, without what differs from run to run."""
        records = [json.loads(file.read_text()) for file in self.out.glob("squares/*/*/record.json")]
        return {r["key"]: [{**image, "seconds": None, "stages": None} for image in r["images"]] for r in records}

    @property
    def tuned(self) -> dict[str, Any]:
        return dict(yaml.safe_load(self.tune_folder.with_name("tuned.yaml").read_text()))

    @property
    def study_url(self) -> str:
        return f"sqlite:///{self.tune_folder / 'study.db'}"


def finish(process: subprocess.Popen[str], status: int = 0) -> str:
    output, errors = process.communicate(timeout=1200)
    assert process.returncode == status, errors
    return output + errors


def check_study(url: str, workshop: Workshop) -> None:
    """See that the study says what the records say."""
    (name,) = optuna.get_all_study_names(url)
    study = optuna.load_study(study_name=name, storage=url)
    points = {point["key"]: point for point in workshop.points().values()}
    assert Counter(trial.user_attrs["key"] for trial in study.trials) == Counter(list(points))
    for trial in study.trials:
        point = points[trial.user_attrs["key"]]
        assert trial.params == point["parameters"]
        assert trial.value == point["pq"] if point["status"] == "ok" else trial.state.name == "FAIL"
        assert trial.user_attrs["stage"] == point["stage"]
        assert trial.user_attrs["pq_by_image"] == {image["image"]: image["pq"] for image in point["images"]}
    assert study.best_value == workshop.tuned["pq"]


class Server:
    """A PostgreSQL server of our own on a socket, with which nothing else has to do."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # The server refuses to run as root.
        self.user = "postgres" if os.geteuid() == 0 else None
        if self.user:
            shutil.chown(folder, self.user)
        self.call("initdb", "-D", f"{folder}/data", "-A", "trust", "-U", "postgres")
        self.url = f"postgresql://postgres@/postgres?host={folder}"

    def call(self, program: str, *arguments: str) -> None:
        assert POSTGRES
        command = [str(POSTGRES / program), *arguments]
        subprocess.run(command, check=True, capture_output=True, user=self.user, cwd=self.folder, timeout=120)

    def start(self) -> None:
        options = f"-k {self.folder} -c listen_addresses= -c fsync=off"
        self.call("pg_ctl", "-D", f"{self.folder}/data", "-w", "-l", f"{self.folder}/log", "-o", options, "start")

    def stop(self) -> None:
        self.call("pg_ctl", "-D", f"{self.folder}/data", "-w", "-m", "immediate", "stop")


class Nodes:
    """A Ray cluster of three nodes on this machine, each with room for one job."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self._room = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
        self._cluster = patiently(lambda: Cluster(initialize_head=True, head_node_args=self._room))
        self.fill()
        self.options = ("--executor", "ray", "--address", self._cluster.address)

    def fill(self) -> None:
        while len(self._cluster.worker_nodes) < 2:
            patiently(lambda: self._cluster.add_node(**self._room))

    def kill_busy(self, folder: Path) -> bool:
        """Kill a node whose worker is busy below ``folder``, if there is one; the head node stays."""
        above = {parent.pid for worker in workers(folder) for parent in worker.parents()}
        for node in list(self._cluster.worker_nodes):
            if node.all_processes["raylet"][0].process.pid in above:
                self._cluster.remove_node(node, allow_graceful=False)
                return True
        return False

    def end(self) -> None:
        self._cluster.shutdown()


def patiently(start: Callable[[], Any]) -> Any:
    """Start a node once more where it was not there within the 30 s that Ray gives it, as on a busy machine."""
    try:
        return start()
    except Exception as error:
        if "timed out during startup" not in str(error):
            raise
        return start()


def workers(folder: Path) -> list[psutil.Process]:
    """Return the worker processes whose jobs lie below ``folder``."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            command = process.cmdline()
            if "crystalbench.experiment._worker" in command and any(str(folder) in part for part in command):
                found += [process] if process.status() != psutil.STATUS_ZOMBIE else []
    return found


def wait_until(check: Callable[[], object], seconds: float = 240.0) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.05)
