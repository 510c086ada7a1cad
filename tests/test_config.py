from __future__ import annotations

from pathlib import Path

import pytest

from crystalbench import ConfigurationError, UnknownNameError
from crystalbench.config import MethodConfig, merge, override, parse_settings, read_yaml


def test_merge_goes_into_mappings_and_replaces_lists() -> None:
    assert merge({"a": {"b": 1, "c": [1, 2]}, "d": 0}, {"a": {"c": [3]}}) == {"a": {"b": 1, "c": [3]}, "d": 0}


def test_an_unknown_key_names_file_and_nearest_key(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("method: mine\ndecod: {}\n")
    with pytest.raises(UnknownNameError, match=r"mine\.yaml.*'decod'.*'decode'"):
        read_yaml(file, MethodConfig)


def test_broken_yaml_is_one_error_with_the_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("method: [")
    with pytest.raises(ConfigurationError, match=r"mine\.yaml: cannot be read as YAML"):
        read_yaml(file, MethodConfig)


def test_a_preset_lies_over_the_base_values(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("method: mine\ntrain: {net: {lr: 1, epochs: 2}}\npresets: {quick: {train: {net: {lr: 3}}}}\n")
    config = read_yaml(file, MethodConfig)
    assert config.values("quick")["train"] == {"net": {"lr": 3, "epochs": 2}}
    assert config.values("paper")["train"] == {"net": {"lr": 1, "epochs": 2}}


@pytest.mark.parametrize(
    ("setting", "path"),
    [("train.lr=0.01", ["train", "net", "lr"]), ("train.net.lr=0.01", ["train", "net", "lr"])],
)
def test_with_one_component_its_name_may_be_left_out(setting: str, path: list[str]) -> None:
    settings = parse_settings([setting], ["mine"])["mine"]
    values = override({"train": {}, "infer": {}, "decode": {}}, settings, ["net"])
    for key in path:
        values = values[key]
    assert values == 0.01


def test_with_several_components_the_name_is_needed() -> None:
    settings = parse_settings(["train.lr=0.01"], ["sima"])["sima"]
    with pytest.raises(UnknownNameError, match="unknown component 'lr'"):
        override({}, settings, ["cp", "attention"])


def test_with_several_methods_the_method_is_needed() -> None:
    assert parse_settings(["b.decode.h=1"], ["a", "b"]) == {"a": [], "b": [(["decode", "h"], 1)]}
    with pytest.raises(ConfigurationError, match=r"put the method's name in front: a\.decode\.h=1|a\.decode\.h"):
        parse_settings(["decode.h=1"], ["a", "b"])


def test_a_setting_without_value_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="KEY=VALUE"):
        parse_settings(["decode.h"], ["a"])


def test_an_unknown_part_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'decode'"):
        parse_settings(["decod.h=1"], ["a"])
