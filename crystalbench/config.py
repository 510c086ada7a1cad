"""Settings: YAML in, validated models out. An unknown key is an error that names the nearest known one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from crystalbench._exceptions import ConfigurationError, UnknownNameError

Preset = Literal["quick", "standard", "paper"]
PRESETS: tuple[Preset, ...] = get_args(Preset)

Tree = dict[str, Any]
_Model = TypeVar("_Model", bound=BaseModel)

_LIST_HINT = "write a list as [a, b]"
_LIST_ERRORS = frozenset({"list_type", "tuple_type"})


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which would keep the last of two values of one key."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key for key, _ in node.value]
        for number, key in enumerate(keys):
            if any(key.value == earlier.value for earlier in keys[:number]):
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is given twice", key.start_mark)
        return super().construct_mapping(node, deep)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ParameterSet(_Strict):
    """Values of the three parts of a method's parameters; ``train`` by component.

    With one component its name may be left out, until :meth:`by_component` puts it in.
    """

    train: Tree = {}
    infer: Tree = {}
    decode: Tree = {}

    def by_component(self, components: Sequence[str]) -> Self:
        """Return these values with the name of the only component put in where it was left out."""
        return self.model_copy(update={"train": _by_component(self.train, components)})


class CheckSet(ParameterSet):
    """What the conformance suite is told: values that make a method tiny, and what it is known to fail.

    ``expected_failures`` gives the reason by the name of the check; see :mod:`crystalbench.testing`.
    """

    expected_failures: dict[str, str] = {}


class MethodConfig(ParameterSet):
    """A file ``configs/methods/NAME.yaml``.

    ``method`` names the adapter's file, ``class_name`` (``class`` in YAML) the class where the file has
    several. ``required`` are parameters by dotted name without which the method cannot run: it is then
    no part of ``all``. ``presets`` are partial overrides, ``search`` holds lists of values to try, ``check`` is
    for the conformance suite.
    """

    method: str
    class_name: str | None = Field(default=None, alias="class")
    info: Tree = {}
    required: tuple[str, ...] = ()
    presets: dict[Preset, ParameterSet] = {}
    search: ParameterSet = ParameterSet()
    check: CheckSet = CheckSet()

    def by_component(self, components: Sequence[str]) -> Self:
        """Return these settings with the name of the only component put in, in presets, search and check too."""
        parts = {
            "presets": {name: preset.by_component(components) for name, preset in self.presets.items()},
            "search": self.search.by_component(components),
            "check": self.check.by_component(components),
        }
        return super().by_component(components).model_copy(update=parts)

    def values(self, preset: Preset) -> Tree:
        """Return the plain values of ``preset`` as ``{"train": ..., "infer": ..., "decode": ...}``."""
        base = ParameterSet(train=self.train, infer=self.infer, decode=self.decode).model_dump()
        return merge(base, self.presets.get(preset, ParameterSet()).model_dump())

    def tiny_values(self) -> Tree:
        """Return the plain values that the conformance suite trains and predicts with: ``check`` over ``quick``."""
        return merge(self.values("quick"), self.check.model_dump(exclude={"expected_failures"}))

    def unset(self, values: Tree) -> list[str]:
        """Return the ``required`` parameters that are null or missing in ``values``."""
        given = dict(flatten(values))
        return [name for name in self.required if given.get(name) is None]


def read_yaml(path: Path, model: type[_Model]) -> _Model:
    """Read a YAML file into ``model``.

    Raises
    ------
    ConfigurationError
        Where the file is not YAML, or a key or value is not what the model says; names file and key.
    """
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)
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
        For text that is not ``KEY=VALUE``, or a list without its brackets.
    """
    options = dict(_pairs(settings))
    for key, value in options.items():
        # No option is a text with a comma.
        if isinstance(value, str) and "," in value:
            raise ConfigurationError(f"--set {key}={value}: {_LIST_HINT}")
    return options


def flatten(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested mappings as (dotted name, value)."""
    for name, item in value.items():
        if isinstance(item, Mapping):
            yield from flatten(item, f"{prefix}{name}.")
        else:
            yield prefix + name, item


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return what two mappings hold by names under which they differ, None where one has nothing of that name."""
    names = dict.fromkeys([*one, *other])
    return {name: (one.get(name), other.get(name)) for name in names if one.get(name) != other.get(name)}


def search_lists(search: ParameterSet) -> Iterator[tuple[str, list[Any]]]:
    """Yield the values to try of each parameter, by dotted name.

    Raises
    ------
    ConfigurationError
        Where they are not in a list, or the list is empty.
    """
    for name, found in flatten(search.model_dump()):
        if not isinstance(found, list) or not found:
            raise ConfigurationError(f"search.{name}: write the values to try as a list (given: {found!r})")
        yield name, found


def override(values: Tree, settings: Sequence[tuple[list[str], Any]], components: Sequence[str]) -> Tree:
    """Lay parsed settings over a method's values; with one component its name may be left out.

    Raises
    ------
    UnknownNameError
        For a part that is not train, infer or decode.
    ConfigurationError
        For a part without one of its parameters.
    """
    for path, value in settings:
        part, *rest = path
        if part not in ParameterSet.model_fields:
            raise UnknownNameError("part of the parameters", part, ParameterSet.model_fields)
        if not rest:
            raise ConfigurationError(f"--set {'.'.join(path)}: name one parameter of {part}")
        for key in reversed(rest):
            value = {key: value}
        values = merge(values, {part: _by_component(value, components) if part == "train" else value})
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


def _by_component(train: Tree, components: Sequence[str]) -> Tree:
    if len(components) == 1 and train and components[0] not in train:
        return {components[0]: train}
    return train


def _readable(error: ValidationError, model: type[BaseModel], where: str) -> ConfigurationError:
    first = error.errors()[0]
    path = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return UnknownNameError(f"key in {where}:", path, _known_keys(model, first["loc"]))
    # A validator of the whole model has no path: its message says which keys it means.
    place = f"{where}: {path}" if path else where
    reason = first["msg"].removeprefix("Value error, ")
    hint = f"; {_LIST_HINT}" if first["type"] in _LIST_ERRORS else ""
    return ConfigurationError(f"{place}: {reason} (given: {first['input']!r}){hint}")


def _known_keys(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    prefix = "".join(f"{part}." for part in path[:-1])
    for part in path[:-1]:
        field = model.model_fields.get(str(part))
        nested = field.annotation if field else None
        if not (isinstance(nested, type) and issubclass(nested, BaseModel)):
            continue
        model = nested
    return [prefix + (field.alias or name) for name, field in model.model_fields.items()]
