"""Settings: YAML in, validated models out. An unknown key is an error that names the nearest known one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from crystalbench._exceptions import ConfigurationError, UnknownNameError

Preset = Literal["quick", "standard", "paper"]
PRESETS: tuple[Preset, ...] = get_args(Preset)

Tree = dict[str, Any]
_Model = TypeVar("_Model", bound=BaseModel)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ParameterSet(_Strict):
    """Values of the three parts of a method's parameters; ``train`` by component."""

    train: dict[str, Tree] = {}
    infer: Tree = {}
    decode: Tree = {}


class MethodConfig(ParameterSet):
    """A file ``configs/methods/NAME.yaml``.

    ``method`` names the adapter's file, ``class_name`` (``class`` in YAML) the class where the file has
    several. ``presets`` are partial overrides, ``search`` holds lists of values to try.
    """

    method: str
    class_name: str | None = Field(default=None, alias="class")
    info: Tree = {}
    presets: dict[Preset, ParameterSet] = {}
    search: ParameterSet = ParameterSet()

    def values(self, preset: Preset) -> Tree:
        """Return the plain values of ``preset`` as ``{"train": ..., "infer": ..., "decode": ...}``."""
        base = ParameterSet(train=self.train, infer=self.infer, decode=self.decode).model_dump()
        return merge(base, self.presets.get(preset, ParameterSet()).model_dump())


def read_yaml(path: Path, model: type[_Model]) -> _Model:
    """Read a YAML file into ``model``.

    Raises
    ------
    ConfigurationError
        Where the file is not YAML, or a key or value is not what the model says; names file and key.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigurationError(f"{path}: cannot be read as YAML: {error}") from error
    return validate(model, {} if values is None else values, str(path))


def validate(model: type[_Model], values: Any, where: str) -> _Model:
    """Build ``model`` from plain values; errors say ``where`` they came from.

    Raises
    ------
    UnknownNameError
        For a key that the model does not have.
    ConfigurationError
        For a value that does not fit.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise _readable(error, model, where) from error


def merge(base: Mapping[str, Any], override: Mapping[str, Any]) -> Tree:
    """Return ``base`` with ``override`` laid over it, mapping by mapping; lists are replaced."""
    merged = dict(base)
    for key, value in override.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def parse_settings(settings: Sequence[str], methods: Sequence[str]) -> dict[str, list[tuple[list[str], Any]]]:
    """Split ``--set`` arguments into paths and values, by method.

    Parameters
    ----------
    settings
        Such as ``train.lr=0.01`` or ``sima.train.cp.lr=0.01``.
    methods
        The methods of the run. With more than one, the method's name must stand in front.

    Raises
    ------
    ConfigurationError
        For text that is not ``KEY=VALUE``, or where it is not clear which method is meant.
    """
    parsed: dict[str, list[tuple[list[str], Any]]] = {method: [] for method in methods}
    for key, value in _pairs(settings):
        method, path = _owner(key.split("."), methods)
        parsed[method].append((path, value))
    return parsed


def parse_options(settings: Sequence[str]) -> Tree:
    """Return ``KEY=VALUE`` arguments as a mapping; values are read as YAML.

    Raises
    ------
    ConfigurationError
        For text that is not ``KEY=VALUE``.
    """
    return dict(_pairs(settings))


def override(values: Tree, settings: Sequence[tuple[list[str], Any]], components: Sequence[str]) -> Tree:
    """Lay parsed settings over a method's values; with one component its name may be left out.

    Raises
    ------
    UnknownNameError
        For a part that is not train, infer or decode, or a component that the method does not have.
    """
    for path, value in settings:
        part, *rest = path
        if part not in ParameterSet.model_fields:
            raise UnknownNameError("part of the parameters", part, ParameterSet.model_fields)
        if part == "train":
            rest = _with_component(rest, components)
        if not rest:
            raise ConfigurationError(f"--set {'.'.join(path)}: name one parameter of {part}")
        for key in reversed([part, *rest]):
            value = {key: value}
        values = merge(values, value)
    return values


def _pairs(settings: Sequence[str]) -> Iterator[tuple[str, Any]]:
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise ConfigurationError(f"--set {setting}: write KEY=VALUE, such as train.lr=0.01")
        try:
            yield key, yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigurationError(f"--set {setting}: the value cannot be read as YAML") from error


def _owner(path: list[str], methods: Sequence[str]) -> tuple[str, list[str]]:
    if path[0] in methods:
        return path[0], path[1:] or [""]
    if len(methods) == 1 and path[0] in ParameterSet.model_fields:
        return methods[0], path
    if path[0] in ParameterSet.model_fields:
        raise ConfigurationError(
            f"--set {'.'.join(path)}: with several methods put the method's name in front: "
            f"{methods[0]}.{'.'.join(path)}"
        )
    known = [*methods, *ParameterSet.model_fields] if len(methods) == 1 else methods
    raise UnknownNameError("method or part in --set", path[0], known)


def _with_component(path: list[str], components: Sequence[str]) -> list[str]:
    if path and path[0] in components:
        return path
    if len(components) == 1:
        return [components[0], *path]
    raise UnknownNameError("component", path[0] if path else "", components)


def _readable(error: ValidationError, model: type[BaseModel], where: str) -> ConfigurationError:
    first = error.errors()[0]
    path = ".".join(str(part) for part in first["loc"]) or "the file"
    if first["type"] == "extra_forbidden":
        return UnknownNameError(f"key in {where}:", path, _known_keys(model, first["loc"]))
    return ConfigurationError(f"{where}: {path}: {first['msg']} (given: {first['input']!r})")


def _known_keys(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    prefix = "".join(f"{part}." for part in path[:-1])
    for part in path[:-1]:
        field = model.model_fields.get(str(part))
        nested = field.annotation if field else None
        if not (isinstance(nested, type) and issubclass(nested, BaseModel)):
            continue
        model = nested
    return [prefix + (field.alias or name) for name, field in model.model_fields.items()]
