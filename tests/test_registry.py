from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from crystalbench import ConfigurationError, UnknownNameError
from crystalbench.config import override, parse_settings
from crystalbench.data import open_dataset
from crystalbench.experiment._keys import source_sha256
from crystalbench.experiment._plan import Request, plan
from crystalbench.registry import choose_methods, find_method, find_methods

ADAPTER = """
import numpy as np
from crystalbench import MethodInfo, Parameters, Segmenter

class Decode(Parameters):
    level: int = 128

class Threshold(Segmenter):
    info = MethodInfo(name="x", title="Threshold", licence="MIT")
    Decode = Decode
    def predict(self, image):
        return (image[..., 0] > self.decode_parameters.level).astype(np.int32)
"""


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    file = tmp_path / "threshold.py"
    file.write_text(ADAPTER)
    return file


def test_listing_methods_imports_no_adapter() -> None:
    code = (
        "import sys; from crystalbench.registry import find_methods;"
        "[m.info for m in find_methods().values()];"
        "print([n for n in sys.modules if n.startswith('crystalbench.adapters.') or n in ('torch', 'cellpose')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_building_a_method_imports_no_torch() -> None:
    code = (
        "import sys; from crystalbench.registry import find_methods;"
        "[m.build(m.config.values(p)) for m in find_methods().values() for p in m.config.presets];"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_every_method_has_all_presets_and_a_licence() -> None:
    for method in find_methods().values():
        assert set(method.config.presets) == {"quick", "standard", "paper"}, method.name
        assert method.info.licence
        for preset in ("quick", "standard", "paper"):
            method.preset(preset)


def test_every_search_grid_names_parameters_that_exist() -> None:
    for method in find_methods().values():
        values = method.preset("paper")
        search = method.config.search
        for component, grid in search.train.items():
            assert set(grid) <= set(values["train"][component]), method.name
        assert set(search.infer) <= set(values["infer"]), method.name
        assert set(search.decode) <= set(values["decode"]), method.name


def test_a_file_is_a_method_named_after_its_stem(adapter: Path) -> None:
    method = find_method("threshold", [str(adapter)])
    assert method.info.name == "threshold"
    assert method.info.title == "Threshold"
    assert method.preset("quick")["decode"] == {"level": 128}
    assert method.sources == (adapter,)
    assert method.libraries == ("numpy",)


def test_files_of_one_stem_in_two_folders_are_two_methods(adapter: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = tmp_path / "other" / adapter.name
    other.write_text(ADAPTER.replace("level: int = 128", "sigma: float = 2.0"))
    assert find_method("threshold", [str(adapter)]).preset("quick")["decode"] == {"level": 128}
    assert find_method("threshold", [str(other)]).preset("quick")["decode"] == {"sigma": 2.0}


def test_yaml_beside_the_file_is_read(adapter: Path) -> None:
    adapter.with_suffix(".yaml").write_text(
        "method: threshold\ninfo: {title: Other, licence: BSD}\npresets: {quick: {decode: {level: 9}}}\n"
    )
    method = find_method("threshold", [f"{adapter}:Threshold"])
    assert method.info.title == "Other"
    assert method.preset("quick")["decode"] == {"level": 9}


def test_an_unknown_parameter_names_the_nearest(adapter: Path) -> None:
    method = find_method("threshold", [str(adapter)])
    with pytest.raises(UnknownNameError, match=r"'levl'.*'level'"):
        method.parameters({"train": {}, "infer": {}, "decode": {"levl": 3}})


def test_two_methods_of_one_name_are_an_error(adapter: Path) -> None:
    with pytest.raises(ConfigurationError, match="two methods are called 'threshold'"):
        find_methods([str(adapter), str(adapter)])


def test_a_missing_file_and_a_missing_class_say_so(adapter: Path) -> None:
    with pytest.raises(ConfigurationError, match="does not exist"):
        find_methods([str(adapter.with_name("absent.py"))])
    with pytest.raises(UnknownNameError, match=r"'Treshold'.*'Threshold'"):
        _ = find_method("threshold", [f"{adapter}:Treshold"]).segmenter_class


@pytest.mark.parametrize(
    ("text", "reason"),
    [("import a_library_that_is_not_there\n", "ModuleNotFoundError"), ("import sys; sys.exit()\n", "SystemExit")],
)
def test_a_file_that_cannot_be_imported_says_why(text: str, reason: str, tmp_path: Path) -> None:
    file = tmp_path / "broken.py"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=rf"broken\.py: cannot be imported: {reason}"):
        _ = find_method("broken", [str(file)]).segmenter_class


TRAINED = """
from crystalbench import Component, MethodInfo, Parameters, Segmenter

class Train(Parameters):
    steps: int = 1
    lr: float = 0.1

class Net(Segmenter):
    info = MethodInfo(name="net", title="Net", licence="MIT")
    components = (Component("net", Train),)
"""


def test_yaml_beside_the_file_may_leave_out_the_only_component(tmp_path: Path) -> None:
    file = tmp_path / "trained.py"
    file.write_text(TRAINED)
    file.with_suffix(".yaml").write_text(
        "method: trained\ntrain: {steps: 4}\n"
        "presets: {quick: {train: {net: {lr: 0.2}}}, paper: {train: {steps: 9}}}\nsearch: {train: {lr: [1, 2]}}\n"
    )
    method = find_method("trained", [str(file)])
    assert method.preset("quick")["train"] == {"net": {"steps": 4, "lr": 0.2}}
    assert method.preset("standard")["train"] == {"net": {"steps": 4, "lr": 0.1}}
    assert method.preset("paper")["train"] == {"net": {"steps": 9, "lr": 0.1}}
    assert method.config.search.train == {"net": {"lr": [1, 2]}}


def test_with_several_components_the_name_is_needed() -> None:
    method = find_method("sima")
    settings = parse_settings(["train.lr=0.01"], ["sima"])["sima"]
    with pytest.raises(UnknownNameError, match=r"unknown component of sima 'lr'; known: attention, cp"):
        method.build(override(method.config.values("quick"), settings, list(method.components)))


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('MethodInfo(name="net",', "dict(", r"info must be a MethodInfo"),
        ('(Component("net", Train),)', 'Component("net", Train)', r"components must be a tuple: .* with a comma"),
        ('Component("net", Train)', "Train", r"components must hold Component\(\.\.\.\) alone, not .*Train"),
        ("Train(Parameters)", "Train", r"parameters of component 'net' must be a subclass of Parameters"),
        ("Train),)", 'Train, requires=("size",)),)', r"component 'net' requires 'size', .* before it"),
        ("components", "Decode = MethodInfo\n    Infer = dict\n    components", r"Infer must be a subclass of Param"),
        ("components", "class Decode: ...\n    components", r"Decode must be a subclass of Parameters"),
        ("components", "def __init__(self): ...\n    components", r"cannot be built: TypeError.*super\(\).__init__"),
        ("components", "def __init__(self, **_): ...\n    components", r"__init__ must call super\(\)\.__init__"),
        (
            "components",
            "def __init__(self, **_): self.steps = self.train['net'].steps\n    components",
            r"cannot be built: AttributeError.*super\(\).__init__",
        ),
    ],
)
def test_a_slip_of_an_author_names_file_and_class_and_what_is_expected(
    old: str, new: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "crystalbench_adapter_slip", raising=False)
    file = tmp_path / "slip.py"
    file.write_text(TRAINED.replace(old, new, 1))
    with pytest.raises(ConfigurationError, match=rf"slip\.py: Net.*{expected}"):
        find_method("slip", [str(file)]).preset("quick")


def test_an_unknown_method_tells_how_the_files_are_called(adapter: Path) -> None:
    with pytest.raises(
        UnknownNameError, match=r"unknown method 'x'; the file threshold\.py is called 'threshold'; known"
    ):
        choose_methods(["x"], [str(adapter)])
    with pytest.raises(UnknownNameError, match=r"^unknown method 'simma'; did you mean 'sima'\?$"):
        choose_methods(["simma"])


def test_chosen_methods_stand_in_the_order_asked_for() -> None:
    assert list(choose_methods(["truth", "empty"])) == ["truth", "empty"]
    assert choose_methods(["truth", "all"]).keys() == find_methods().keys()


def install(site: Path, *entry_points: str) -> None:
    (site / "threshold_package-1.dist-info").mkdir()
    (site / "threshold_package-1.dist-info" / "METADATA").write_text("Name: threshold-package\nVersion: 1\n")
    lines = "\n".join(["[crystalbench.adapters]", *entry_points])
    (site / "threshold_package-1.dist-info" / "entry_points.txt").write_text(f"{lines}\n")


def test_entry_points_are_found(adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(adapter.parent, "frompackage = threshold:Threshold")
    monkeypatch.syspath_prepend(str(adapter.parent))
    method = find_method("frompackage")
    assert method.info.title == "Threshold"
    assert method.preset("quick")["decode"] == {"level": 128}


def test_every_module_of_a_package_that_a_method_imports_is_part_of_its_source(
    adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, package = adapter.parent, adapter.parent / "threshold_parts"
    for file, text in {
        "__init__.py": "raise AttributeError('listing must not import')",
        "method.py": "from .network import size\nfrom .layers.conv import relu\nimport threshold_parts.absolute\n",
        "network.py": "import numpy",
        "layers/__init__.py": "",
        "layers/conv.py": "from ..common import first\nfrom scipy import ndimage",
        "common.py": "",
        "absolute.py": "",
        "unused.py": "",
    }.items():
        (package / file).parent.mkdir(parents=True, exist_ok=True)
        (package / file).write_text(text)
    install(site, "parts = threshold_parts.method:Parts")
    monkeypatch.syspath_prepend(str(site))
    method = find_method("parts")
    names = {str(file.relative_to(package)) for file in method.sources}
    assert names == {
        "__init__.py", "absolute.py", "common.py", "layers/__init__.py", "layers/conv.py", "method.py", "network.py"
    }  # fmt: skip
    assert method.libraries == ("numpy", "scipy", "threshold_parts")
    before = source_sha256(method)
    (package / "layers" / "conv.py").write_text("relu = 2")
    assert source_sha256(find_method("parts")) != before


def test_a_package_that_cannot_be_imported_breaks_no_list(
    adapter: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, squares: Path
) -> None:
    (adapter.parent / "old_package.py").write_text("import numpy\nnumpy.no_such_attribute\n")
    install(adapter.parent, "old = old_package:Method")
    monkeypatch.syspath_prepend(str(adapter.parent))
    assert find_method("old").info.licence == "unknown"
    assert "no_such_attribute" in caplog.text
    said: list[str] = []
    planned = plan(Request(("all",), open_dataset(squares)), said.append)
    assert {"truth", "sima"} <= {experiment.method.name for experiment in planned}
    assert "old is left out" in said[0]
    with pytest.raises(ConfigurationError, match="no_such_attribute"):
        plan(Request(("old",), open_dataset(squares)), said.append)


def test_a_name_that_means_something_else_is_refused(adapter: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"all\.py: 'all' means something else"):
        find_methods([str(adapter.rename(adapter.with_name("all.py")))])


def test_broken_entry_points_are_named_and_left_out(
    adapter: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    adapter.rename(adapter.with_name("oddities.py"))
    (adapter.parent / "odd.yaml").write_text("methood: threshold\n")
    install(adapter.parent, "absent = not_there.at_all:Method", "odd = oddities:Threshold")
    monkeypatch.syspath_prepend(str(adapter.parent))
    assert {"absent", "odd"}.isdisjoint(find_methods())
    assert "'absent' of another package is left out" in caplog.text
    assert "odd.yaml" in caplog.text


def test_a_file_that_is_not_python_is_named(adapter: Path) -> None:
    adapter.write_text("def broken(:\n")
    with pytest.raises(ConfigurationError, match=r"threshold\.py: cannot be read as Python"):
        _ = find_method("threshold", [str(adapter)]).libraries


def test_the_sources_of_sima_hold_what_it_imports() -> None:
    names = {file.name for file in find_method("sima").sources}
    assert {"sima.py", "_flow.py", "_parameters.py", "_targets.py"} <= names
    assert "_foreground.py" not in names
