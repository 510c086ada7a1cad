from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from crystalbench import ConfigurationError
from crystalbench._new import new_method
from crystalbench.cli import main
from crystalbench.registry import find_method


def test_the_new_method_passes_check_as_it_is_and_runs(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["new", "bright_grains", "--to", "my methods"]) == 0
    commands = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert [command[:2] for command in commands[:2]] == [["crystalbench", "check"], ["crystalbench", "run"]]
    adapter = "my methods/bright_grains.py"
    assert main(["check", "bright_grains", "--adapter", adapter]) == 0
    assert "12 of 15 checks ran: 12 ok, 3 not applicable" in capsys.readouterr().out
    assert main(["run", "--method", "bright_grains", "--adapter", adapter, "--data", str(squares)]) == 0
    assert "overlays of bright_grains" in capsys.readouterr().out


def test_its_test_passes(tmp_path: Path) -> None:
    new_method("bright", tmp_path)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_bright.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "13 passed, 3 skipped" in done.stdout


def test_it_shows_the_shape_of_a_method(tmp_path: Path) -> None:
    adapter, settings, _ = new_method("bright", tmp_path)
    method = find_method("bright", [str(adapter)])
    assert method.segmenter_class.__name__ == "BrightSegmenter"
    assert method.preset("quick") == {"train": {}, "infer": {"sigma": 1.0}, "decode": {"level": 0.0, "min_size": 20}}
    assert method.info.title == "Bright"
    assert yaml.safe_load(settings.read_text())["search"]["decode"].keys() == {"level", "min_size"}
    assert not any(re.search("my_?method|my method", file.read_text(), re.IGNORECASE) for file in tmp_path.iterdir())


# The name of a class of ours, a word that YAML takes for a value, capitals.
@pytest.mark.parametrize("name", ["labels", "segmenter", "null", "yes", "MyNet2", "field"])
def test_any_name_of_a_module_will_do(name: str, tmp_path: Path) -> None:
    adapter, *_ = new_method(name, tmp_path)
    assert find_method(name, [str(adapter)]).preset("quick")["decode"]["min_size"] == 20


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("my-method", "'my-method' cannot be the name of a Python module: call it 'my_method'"),
        ("all", "'all' means something else to `crystalbench run`: choose another name"),
        ("class", "'class' cannot be .*: use letters, digits and _"),
        ("7up", "'7up' cannot be"),
        ("../up", "'../up' cannot be .*: call it 'up'"),
        ("méthode", "cannot be"),
        ("sima", "there is a method 'sima' already, in .*sima.py: choose another name"),
        ("numpy", "there is a module 'numpy' already, which numpy.py would hide"),
        ("json", "there is a module 'json' already"),
    ],
)
def test_a_name_that_cannot_be_or_is_taken_is_refused(name: str, expected: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=expected):
        new_method(name, tmp_path / "here")
    assert not list(tmp_path.rglob("*"))


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bright.yaml").write_text("mine")
    assert main(["new", "bright", "--to", str(tmp_path)]) == 2
    assert "bright.yaml is there already: choose another name or another folder" in capsys.readouterr().err
    assert [file.read_text() for file in tmp_path.iterdir()] == ["mine"]
