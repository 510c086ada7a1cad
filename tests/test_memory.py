"""Memory that every method takes for a large micrograph, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_ceilings import TRAINED
from test_presets import fit_all, one_step
from test_queries import mosaic

from crystalbench.data import find_dataset, write_image, write_labels
from crystalbench.registry import find_method

SIDE = 1800
CRYSTALS = 500
MOST_GB = 8

MEASURED = """
import re, sys
from pathlib import Path
from crystalbench.data import open_dataset
from crystalbench.evaluation import evaluate
from crystalbench.registry import find_method
from oracles import oracle_labels
from test_presets import one_step

name, part, folder = sys.argv[1:]
method, folder = find_method(name), Path(folder)
segmenter = method.build(one_step(method.preset("paper")))
(sample,) = open_dataset(folder / "large").samples
if part == "decode":
    assert evaluate(sample.label, oracle_labels(segmenter, sample)).pq > 0.1
else:
    checkpoints = {c.name: folder / name / c.name / "checkpoint.safetensors" for c in segmenter.components}
    segmenter.load(checkpoints, "cpu")
    segmenter.infer(sample.image)
# Not getrusage(), which begins with what the process that started this one holds.
(peak,) = re.findall(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())
print(int(peak) * 1024 / 1e9)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of one micrograph of crystals that touch, or nearly."""
    folder = tmp_path_factory.mktemp("memory")
    label = mosaic(SIDE, SIDE, CRYSTALS)
    edge = (label != np.roll(label, 1, 0)) | (label != np.roll(label, 1, 1))
    grey = np.random.default_rng(0).integers(90, 200, CRYSTALS + 1)[label]
    image = np.where(edge, 20, grey)[..., None].repeat(3, axis=2).astype(np.uint8)
    write_image(folder / "large" / "images" / "large.png", image)
    write_labels(folder / "large" / "labels", "large", np.where(edge, 0, label).astype(np.int32))
    return folder


def measured_gb(name: str, part: str, folder: Path) -> float:
    """Return the most resident memory of a process that imports a method, and runs it on the large micrograph."""
    command = [sys.executable, "-W", "ignore", "-c", MEASURED, name, part, str(folder)]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return float(done.stdout.split()[-1])


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", TRAINED)
def test_a_large_micrograph_stays_within_memory(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = find_dataset("demo").split().train[0]
    method = find_method(name)
    segmenter = method.build(one_step(method.preset("paper")))
    fit_all(segmenter, small, folder / name)
    found = {part: measured_gb(name, part, folder) for part in ("infer", "decode")}
    with capsys.disabled():
        print(f"\n{name}: " + ", ".join(f"{part} {gb:.2f} GB" for part, gb in found.items()))
    assert max(found.values()) < MOST_GB
