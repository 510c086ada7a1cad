"""A method whose library conflicts with ours runs in an environment of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from conftest import make_squares

from crystalbench import _doctor
from crystalbench._exceptions import ConfigurationError
from crystalbench.cli import main
from crystalbench.registry import find_method

needs_uv = pytest.mark.skipif(shutil.which("uv") is None, reason="uv is not installed")

# crystalbench asks for tabulate >= 0.9.
OLD = "0.8.10"
BLOCK = f"""# /// script
# requires-python = ">=3.11"
# dependencies = ["tabulate=={OLD}"]
# ///
"""
ADAPTER = """
import numpy as np
import tabulate
from safetensors.numpy import load_file, save_file
from crystalbench import Component, MethodInfo, Parameters, Segmenter

class Train(Parameters):
    grey: int

class Decode(Parameters):
    above: int = 0

class Old(Segmenter):
    info = MethodInfo(name="old", title="With an old library", licence="MIT")
    components = (Component("level", Train),)
    Decode = Decode

    def fit(self, component, train, val, context):
        save_file({"level": np.array([self.train["level"].grey])}, context.folder / "checkpoint.safetensors")

    def load(self, checkpoints, device):
        self.level = load_file(checkpoints["level"])["level"][0]

    def predict(self, image):
        self.details["tabulate"] = tabulate.__version__
        try:
            import pytest
        except ImportError:
            self.details["pytest"] = "absent"
        return (image[..., 0] > self.level + self.decode_parameters.above).astype(np.int32)
"""


class Bench:
    """An adapter, and the command that runs it isolated."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "old.py").write_text(BLOCK + ADAPTER)
        self.data = make_squares(folder / "squares", 12)
        # The environments are built anew, from packages that uv has in its cache.
        cache = subprocess.run(["uv", "cache", "dir"], check=True, capture_output=True, text=True).stdout.strip()
        self.environment = os.environ | {"XDG_CACHE_HOME": str(folder / "cache"), "UV_CACHE_DIR": cache}
        # Nothing of our own libraries may leak, also where the user makes them importable everywhere.
        self.environment |= {"PYTHONPATH": str(Path(pytest.__file__).parents[1])}

    def run(self, method: str, *extra: str, status: int = 0) -> str:
        file = self.folder / f"{method}.py"
        command = [sys.executable, "-m", "crystalbench", "run", "--method", method, "--adapter", str(file)]
        command += ["--data", str(self.data), "--out", str(self.folder / "runs"), "--threads", "1", *extra]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        assert done.returncode == status, done.stderr
        return done.stdout + done.stderr

    def record(self, method: str = "old") -> dict[str, Any]:
        (file,) = self.folder.glob(f"runs/squares/{method}/*/record.json")
        return dict(json.loads(file.read_text()))


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("isolated"))


@needs_uv
def test_a_method_runs_with_a_library_that_conflicts_with_ours(bench: Bench) -> None:
    setting = ("--set", "old.train.grey=90", "--set", "old.decode.above=10")
    printed = bench.run("old", "--isolated", "--method", "truth", *setting)
    assert printed.count("uv builds the environment") == 1
    assert printed.count("without a `# /// script` block, and so run in this environment: truth\n") == 1
    record = bench.record()
    assert record["status"] == "ok"
    assert record["info"]["title"] == "With an old library"
    assert record["parameters"] == {"train": {"level": {"grey": 90}}, "infer": {}, "decode": {"above": 10}}
    assert record["summary"]["pq"] > 0
    assert all(image["details"] == {"tabulate": OLD, "pytest": "absent"} for image in record["images"])
    assert record["provenance"]["libraries"]["tabulate"] == OLD
    assert record["provenance"]["isolated"]["packages"]["tabulate"] == OLD
    assert record["provenance"]["isolated"]["python"].startswith("3.")
    assert "crystalbench" not in record["provenance"]["isolated"]["packages"]
    assert bench.record("truth")["provenance"]["isolated"] is None
    assert version("tabulate") != OLD
    again = bench.run("old", "--isolated", *setting)
    assert "uv builds" not in again
    assert "done before, nothing to do" in again
    # A Python that has gone since, as after an upgrade.
    for python in (bench.folder / "cache").glob("crystalbench/environments/*/bin/python"):
        python.unlink()
        python.symlink_to(bench.folder / "gone")
    assert "uv builds" in bench.run("old", "--isolated", *setting)
    # The same method in our own environment has other keys.
    bench.run("old", *setting)
    assert len(list(bench.folder.glob("runs/squares/old/*/record.json"))) == 2
    assert len(list(bench.folder.glob("runs/train/level/*/training.json"))) == 2


@needs_uv
def test_a_method_is_checked_in_its_environment(bench: Bench) -> None:
    complete = ADAPTER.replace("grey: int", "grey: int = 90").replace(
        "save_file({", "context.report(1, 1); save_file({"
    )
    (bench.folder / "complete.py").write_text(BLOCK + complete)
    command = [sys.executable, "-m", "crystalbench", "check", "complete", "--adapter", "complete.py", "--isolated"]
    done = subprocess.run(command, cwd=bench.folder, env=bench.environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ok               labels" in done.stdout
    refused = subprocess.run([*command[:4], "truth", "--isolated"], capture_output=True, text=True)
    assert refused.returncode == 2
    assert "truth.py has no `# /// script` block" in refused.stderr


@needs_uv
def test_wrong_values_and_files_are_told_by_the_environment(bench: Bench) -> None:
    assert "unknown key in old: decode: 'abov'; did you mean 'above'?" in bench.run(
        "old", "--isolated", "--set", "train.grey=9", "--set", "decode.abov=1", status=2
    )
    (bench.folder / "broken.py").write_text(BLOCK + "import pytest")
    printed = bench.run("broken", "--isolated", status=2)
    assert "broken.py: cannot be imported: ModuleNotFoundError: No module named 'pytest'" in printed


@needs_uv
def test_what_cannot_be_resolved_is_a_wrong_call_with_the_message_of_uv(bench: Bench) -> None:
    (bench.folder / "absent.py").write_text(BLOCK.replace(OLD, "999") + ADAPTER)
    printed = bench.run("absent", "--isolated", status=2)
    assert "absent.py: uv cannot build the environment" in printed
    assert "there is no version of tabulate==999" in printed
    assert "Traceback" not in printed


@needs_uv
def test_without_uv_the_error_says_so(bench: Bench) -> None:
    bench.environment = bench.environment | {"PATH": "", "XDG_CACHE_HOME": str(bench.folder / "empty")}
    assert "--isolated needs uv, which is not on the PATH" in bench.run("old", "--isolated", status=2)


def test_a_script_block_is_read(tmp_path: Path) -> None:
    file = tmp_path / "old.py"
    file.write_text(BLOCK + ADAPTER)
    assert find_method("old", [str(file)]).script == {
        "requires-python": ">=3.11",
        "dependencies": [f"tabulate=={OLD}"],
    }
    assert find_method("truth").script is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# /// script\n# dependencies = [\n# ///\n", "block is not TOML"),
        (BLOCK + "\n" + BLOCK, "has 2 `# /// script` blocks"),
    ],
)
def test_a_bad_script_block_is_named(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "old.py"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=f"old.py: .*{message}"):
        _ = find_method("old", [str(file)]).script


@pytest.fixture
def elsewhere(tmp_path: Path) -> str:
    file = tmp_path / "elsewhere.py"
    file.write_text(BLOCK + "import a_library_that_is_not_here\n")
    return str(file)


def test_a_method_whose_libraries_are_elsewhere_is_listed(elsewhere: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", "--json", "--adapter", elsewhere]) == 0
    (listed,) = (method for method in json.loads(capsys.readouterr().out) if method["name"] == "elsewhere")
    assert listed["licence"] == "unknown"


def test_doctor_says_how_a_method_whose_libraries_are_elsewhere_runs(
    elsewhere: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    errors = {"a_library_that_is_not_here": "No module named 'a_library_that_is_not_here'"}
    monkeypatch.setattr(_doctor, "_import_one", lambda name: _doctor.Library(name, "1", errors.get(name, "")))
    assert main(["doctor", "--adapter", elsewhere]) == 1
    printed = capsys.readouterr().out
    assert "lacks a_library_that_is_not_here; run --isolated" in printed
