from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import model_validator

from crystalbench import ConfigurationError, Parameters, UnknownNameError
from crystalbench.config import MethodConfig, merge, override, parse_options, parse_settings, read_yaml, validate


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


def test_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("method: mine\ndecode: {a: 1}\ntrain: {b: 1}\ndecode: {c: 2}\n")
    with pytest.raises(ConfigurationError, match=r"(?s)mine\.yaml: .*'decode' is given twice.*line 4"):
        read_yaml(path, MethodConfig)


def test_a_preset_lies_over_the_base_values(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("method: mine\ntrain: {net: {lr: 1, epochs: 2}}\npresets: {quick: {train: {net: {lr: 3}}}}\n")
    config = read_yaml(file, MethodConfig)
    assert config.values("quick")["train"] == {"net": {"lr": 3, "epochs": 2}}
    assert config.values("paper")["train"] == {"net": {"lr": 1, "epochs": 2}}


@pytest.mark.parametrize("setting", ["train.lr=0.01", "train.net.lr=0.01"])
def test_with_one_component_its_name_may_be_left_out(setting: str) -> None:
    settings = parse_settings([setting], ["mine"])["mine"]
    values = override({"train": {"net": {"epochs": 2}}, "infer": {}, "decode": {}}, settings, ["net"])
    assert values["train"] == {"net": {"epochs": 2, "lr": 0.01}}


def test_in_yaml_too_the_name_of_the_only_component_may_be_left_out(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        "method: mine\ntrain: {net: {lr: 1, epochs: 2}}\npresets: {quick: {train: {lr: 3}}, standard: {}}\n"
        "search: {train: {lr: [1, 2]}}\n"
    )
    config = read_yaml(file, MethodConfig).by_component(["net"])
    assert config.values("quick")["train"] == {"net": {"lr": 3, "epochs": 2}}
    assert config.values("standard")["train"] == {"net": {"lr": 1, "epochs": 2}}
    assert config.search.train == {"net": {"lr": [1, 2]}}


def test_a_part_alone_is_no_parameter() -> None:
    settings = parse_settings(["train=3"], ["mine"])["mine"]
    with pytest.raises(ConfigurationError, match="--set train: name one parameter of train"):
        override({}, settings, ["net"])


def test_a_value_that_is_no_list_says_how_to_write_one() -> None:
    class Scales(Parameters):
        scales: tuple[float, ...] = (1.0,)

    with pytest.raises(
        ConfigurationError, match=r"mine: infer: scales: .* \(given: '0\.5,1'\); write a list as \[a, b\]"
    ):
        validate(Scales, {"scales": "0.5,1"}, "mine: infer")
    with pytest.raises(ConfigurationError, match=r"--set background=255,0,0: write a list as \[a, b\]"):
        parse_options(["connected=true", "background=255,0,0"])
    assert parse_options(["background=[255,0,0]"]) == {"background": [255, 0, 0]}


def test_an_error_of_the_whole_model_stands_as_its_author_wrote_it() -> None:
    class Range(Parameters):
        low: int = 0
        high: int = 1

        @model_validator(mode="after")
        def _ordered(self) -> Range:
            if self.low > self.high:
                raise ValueError(f"low ({self.low}) is over high ({self.high})")
            return self

    with pytest.raises(
        ConfigurationError, match=r"^mine: decode: low \(3\) is over high \(1\) \(given: \{'low': 3\}\)$"
    ):
        validate(Range, {"low": 3}, "mine: decode")


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
