from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest

from crystalbench import UnknownNameError, _checks
from crystalbench.cli import main
from crystalbench.registry import find_methods
from crystalbench.testing import CHECKS, Result, Suite

# It learns the mean brightness of crystals, and passes every check.
ADAPTER = """
import time
import numpy as np
from safetensors.numpy import load_file, save
from crystalbench import Component, MethodInfo, Parameters, Segmenter

class Train(Parameters):
    epochs: int = 3

class Decode(Parameters):
    factor: float = 1.0

class Learned(Segmenter):
    info = MethodInfo(name="learned", title="Learned", licence="MIT")
    components = (Component("mean", Train),)
    Decode = Decode

    def fit(self, component, train, val, context):
        began, state = time.monotonic(), context.folder / "state"
        sums = [float(text) for text in state.read_text().split()] if state.exists() else []
        for epoch in range(len(sums), self.train["mean"].epochs):
            sums.append(float(sum(sample.image[sample.label > 0].mean() for sample in train)))
            if time.monotonic() - began > 5:
                state.write_text(" ".join(map(repr, sums)))
            context.report(epoch + 1, self.train["mean"].epochs)
        (context.folder / "checkpoint.safetensors").write_bytes(save({"mean": np.array(sums) / len(train)}))

    def load(self, checkpoints, device):
        super().load(checkpoints, device)
        self.mean = load_file(checkpoints["mean"])["mean"].mean()

    def infer(self, image):
        return image.mean(axis=2) / self.mean

    def decode(self, raw, parameters):
        return (raw > parameters.factor).astype(np.int32)
"""
SETTINGS = """
method: learned
search: {train: {mean: {epochs: [2, 3]}}, decode: {factor: [0.5, 1.5]}}
check: {train: {epochs: 2}}
"""
IMPORT = "import numpy as np"
REPORT = "context.report(epoch + 1, "
INFER = "return image.mean(axis=2) / self.mean"
DECODE = "return (raw > parameters.factor)"
CHECKPOINT = '(context.folder / "checkpoint.safetensors")'

# What an author might write, and the one check that says so.
SLIPS = [
    ("parameters", "factor: [0.5, 1.5]", "facter: [0.5, 1.5]", r"in learned: decode: 'facter'; did you mean 'factor'"),
    ("parameters", "epochs: [2, 3]", "epochs: [2, many]", r"learned: train\.mean: epochs: .* \(given: 'many'\)"),
    ("parameters", "factor: [0.5, 1.5]", "factor: 0.5", r"search\.decode\.factor: write the values to try as a list"),
    ("parameters", "check: {train: {epochs: 2}}", "check: {train: {epoch: 2}}", r"'epoch'; did you mean 'epochs'"),
    ("parameters", "method: learned", "method: learned\nrequired: [infer.folder]", r"in required 'infer\.folder'"),
    ("parameters", IMPORT, "import not_there", r"learned\.py: cannot be imported: ModuleNotFoundError"),
    ("licence", 'licence="MIT"', 'licence="unknown"', r"no licence: name it in info"),
    ("construction", IMPORT, f"{IMPORT}, torch", r"building imports torch: import it inside fit\(\) and load\(\)"),
    ("construction", IMPORT, f"{IMPORT}, sys\nassert 'pytest' in sys.modules", r"of its own: (?s:.*)AssertionError"),
    ("training", "checkpoint.safetensors", "model.safetensors", r"leaves no checkpoint\.safetensors"),
    ("training", "save({", "repr({", r"TypeError"),
    ("training", REPORT, "max(epoch, ", r"the last report\(step, total\) is missing"),
    ("training", REPORT, "context.report(epoch, ", r"the last report\(step, total\) says 1 of 2"),
    ("labels", "np.int32)", "float)", r"for an image of 96 x 128 px the method returned float64, not int32"),
    ("labels", DECODE, "return -1 * (raw > parameters.factor)", r"labels below 0"),
    ("labels", DECODE, f"{DECODE}[1:]", r"labels of shape \(95, 128\)"),
    ("labels", DECODE, "return [raw]; (raw > 1)", r"returned list, not an array"),
    ("labels", INFER, f"self.details['mean'] = {{self.mean}}; {INFER}", r"TypeError: .* not JSON serializable"),
    ("labels", DECODE, "import sys; sys.exit(3); (raw > 1)", r"SystemExit: 3"),
    ("determinism", "np.array(sums)", "(np.array(sums) + np.random.rand())", r"a second training of mean"),
    ("determinism", INFER, f"self.mean += 30; {INFER}", r"a second object answers otherwise"),
    ("determinism", INFER, f"len(image) == 65 and setattr(self, 'mean', 1); {INFER}", r"after another image"),
    ("save-and-load", "].mean()\n", "].mean() + 50 * ('moved' in checkpoints['mean'].parts)\n", r"that trained them"),
    ("resume", "map(repr, sums)", "map(repr, map(round, sums))", r"interrupted and called again, leaves another"),
    ("resume", CHECKPOINT, f"state.write_text('1.0'); {CHECKPOINT}", r"called again after its end, leaves another"),
    ("odd-sizes", INFER, f"np.gradient(image, axis=(0, 1)); {INFER}", r"ValueError: Shape of array too small"),
    ("grey-and-16-bit", INFER, f"assert not np.ptp(image) or np.ptp(image, axis=2).any(); {INFER}", r"AssertionError"),
    ("empty-images", INFER, f"assert np.ptp(image); {INFER}", r"AssertionError"),
    ("image-unchanged", INFER, f"image //= 2; {INFER} * 2", r"predict\(\) changes the image"),
    ("predict", "    def infer(", "    def predict(self, image):\n        return np.ones(image.shape[:2], np.int32)\n\n"
     "    def infer(", r"predict\(image\) and decode\(infer\(image\)\) give different labels"),
    ("decode", DECODE, "return (raw > parameters.factor + 99)", r"nothing is found in .*: set check\.decode"),
    ("decode", DECODE, f"raw[0, 0] = 0; {DECODE}", r"decode\(\) changes raw: work on a copy"),
    ("decode", DECODE, "return (raw > self.decode_parameters.factor)", r"overlooks .* that it is given: factor=0\.5"),
    ("decode", DECODE, f"raw += parameters.factor == 1.5; {DECODE}", r"other labels for the same raw output"),
    ("memory", INFER, f"self.__dict__.setdefault('kept', []).append(image + 1); {INFER}", r"bytes still held, over"),
    ("memory", INFER, "import mmap; pages = mmap.mmap(-1, 20 << 20); pages.write(bytes(20 << 20)); "
     f"self.__dict__.setdefault('kept', []).append(pages); {INFER}", r"bytes resident, over"),
]  # fmt: skip


@pytest.fixture(autouse=True)
def _import_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "crystalbench_adapter_learned", raising=False)


def write(folder: Path, old: str = "", new: str = "") -> list[str]:
    """Write the adapter and its settings with one slip; return what ``--adapter`` is given."""
    assert old in ADAPTER + SETTINGS
    adapter = folder / "learned.py"
    adapter.write_text(ADAPTER.replace(old, new, 1) if old else ADAPTER)
    adapter.with_suffix(".yaml").write_text(SETTINGS.replace(old, new, 1) if old else SETTINGS)
    return [str(adapter)]


def run_all(name: str, folder: Path, adapters: list[str]) -> dict[str, Result]:
    suite = Suite(name, folder / "suite", adapters)
    return {check: suite.run(check) for check in CHECKS}


def test_a_method_that_does_what_is_asked_passes_every_check(tmp_path: Path) -> None:
    results = run_all("learned", tmp_path, write(tmp_path))
    assert {result.outcome for result in results.values()} == {"ok"}, results


@pytest.mark.parametrize(("check", "old", "new", "expected"), SLIPS)
def test_a_slip_makes_one_check_fail(check: str, old: str, new: str, expected: str, tmp_path: Path) -> None:
    results = run_all("learned", tmp_path, write(tmp_path, old, new))
    failed = {name: result.reason for name, result in results.items() if result.outcome == "failed"}
    assert failed.keys() == {check}, failed
    assert re.search(expected, failed[check]), failed[check]


def test_every_check_has_a_slip() -> None:
    assert {check for check, *_ in SLIPS} == CHECKS.keys()
    assert all(check.asks for check in CHECKS.values())


def test_time_is_bounded_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_checks, "BUILD_S", 0.5)
    busy = f"while time.process_time() < 3: pass\n{IMPORT}"
    result = Suite("learned", tmp_path / "suite", write(tmp_path, IMPORT, busy)).run("construction")
    assert re.search(r"building takes .* s of processor time, more than 0\.5 s", result.reason)


def test_what_needs_a_check_that_failed_is_not_run(tmp_path: Path) -> None:
    results = run_all("learned", tmp_path, write(tmp_path, "save({", "repr({"))
    assert {result.outcome for result in results.values()} == {"ok", "failed", "not run"}
    assert (results["resume"].outcome, results["resume"].reason) == ("not run", "needs determinism")
    assert (results["labels"].outcome, results["labels"].reason) == ("not run", "needs training")


# Expected failures


FAILS_AT_ODD_SIZES = (INFER, f"np.gradient(image, axis=(0, 1)); {INFER}")
EXPECTED = "check: {train: {epochs: 2}, expected_failures: {odd-sizes: a gradient needs 2 px}}"


def expect(adapters: list[str], settings: str) -> list[str]:
    Path(adapters[0]).with_suffix(".yaml").write_text(SETTINGS.replace("check: {train: {epochs: 2}}", settings))
    return adapters


def test_an_expected_failure_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (adapter,) = expect(write(tmp_path, *FAILS_AT_ODD_SIZES), EXPECTED)
    assert main(["check", "learned", "--adapter", adapter]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^expected failure odd-sizes: a gradient needs 2 px \(ValueError", printed, re.MULTILINE)
    assert printed.splitlines()[-1] == "15 of 15 checks ran: 14 ok, 1 expected failure"


def test_an_expected_failure_that_passes_is_one(tmp_path: Path) -> None:
    result = run_all("learned", tmp_path, expect(write(tmp_path), EXPECTED))["odd-sizes"]
    assert result.outcome == "failed"
    assert "does not fail, though check.expected_failures says 'a gradient needs 2 px'" in result.reason


def test_an_expected_failure_of_no_check_names_the_nearest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (adapter,) = expect(write(tmp_path), EXPECTED.replace("odd-sizes", "od-size"))
    assert main(["check", "learned", "--adapter", adapter]) == 2
    assert "expected_failures of learned 'od-size'; did you mean 'odd-sizes'?" in capsys.readouterr().err


# The verb, and pytest


def test_the_verb_prints_a_line_a_check_and_how_many_ran(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (adapter,) = write(tmp_path, *FAILS_AT_ODD_SIZES)
    assert main(["check", "learned", "--adapter", adapter]) == 1
    printed = capsys.readouterr()
    lines = [line for line in printed.out.splitlines() if not line.startswith(" ")]
    assert [re.split(r"[ :]+", line.removeprefix("not applicable"))[1] for line in lines[:-1]] == list(CHECKS)
    assert "asked: Images of any size are segmented" in printed.out
    assert "learned.py" in printed.err
    assert lines[-1] == "15 of 15 checks ran: 14 ok, 1 failed"


def test_an_unknown_method_is_a_wrong_call(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "simma"]) == 2
    assert "did you mean 'sima'" in capsys.readouterr().err


def test_from_pytest_a_check_passes_fails_is_skipped_or_is_expected_to_fail(tmp_path: Path) -> None:
    adapters = expect(write(tmp_path, *FAILS_AT_ODD_SIZES), EXPECTED)
    Suite("learned", tmp_path / "a", adapters).require("labels")
    with pytest.raises(pytest.xfail.Exception, match="a gradient needs 2 px"):
        Suite("learned", tmp_path / "b", adapters).require("odd-sizes")
    with pytest.raises(pytest.fail.Exception, match=r"(?s)ValueError.*Images of any size.*Traceback"):
        Suite("learned", tmp_path / "c", write(tmp_path)).require("odd-sizes")
    with pytest.raises(pytest.skip.Exception, match="not applicable: nothing is trained"):
        Suite("empty", tmp_path / "d").require("resume")
    with pytest.raises(UnknownNameError, match=r"unknown check 'od-sizes'; did you mean 'odd-sizes'"):
        Suite("empty", tmp_path / "e").require("od-sizes")


# What is built in


@pytest.mark.parametrize("name", find_methods())
def test_built_in_methods_pass(name: str, tmp_path: Path) -> None:
    lacking = [library for library in find_methods()[name].libraries if importlib.util.find_spec(library) is None]
    if lacking:
        pytest.skip(f"lacks {', '.join(lacking)}")
    failed = [result for result in run_all(name, tmp_path, []).values() if result.outcome == "failed"]
    assert not failed, "\n".join(f"{result.check}: {result.reason}\n{result.trace}" for result in failed)
