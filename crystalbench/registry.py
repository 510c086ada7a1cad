"""Finding methods without importing them.

Order: the built-in ``configs/methods/``, entry points in the group ``crystalbench.adapters``, then files
given with ``--adapter``. Two methods of one name are an error.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import logging
import re
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, packages_distributions, version
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from crystalbench._exceptions import ConfigurationError, CrystalbenchError, UnknownNameError
from crystalbench._paths import data_dir
from crystalbench.config import MethodConfig, ParameterSet, Preset, Tree, read_yaml, validate
from crystalbench.segmenter import Component, MethodInfo, Parameters, Segmenter

if TYPE_CHECKING:
    from crystalbench.data import Sample

PACKAGE = "crystalbench.adapters"
RESERVED = frozenset({"all", *ParameterSet.model_fields})
"""What ``--method`` and ``--set`` mean something else by."""

_FILE_MODULE = "crystalbench_adapter_"
# As PEP 723 gives it.
_SCRIPT = re.compile(r"(?m)^# /// script$\s(?P<content>(^#(| .*)$\s)+)^# ///$")
_logger = logging.getLogger("crystalbench")


def _register_package() -> None:
    """Make ``adapters/`` importable as ``crystalbench.adapters`` where it lies beside the package.

    A top-level import package called ``adapters`` would collide with another project's.
    """
    if PACKAGE not in sys.modules:
        spec = ModuleSpec(PACKAGE, None, is_package=True)
        spec.submodule_search_locations = [str(data_dir("adapters"))]
        sys.modules[PACKAGE] = importlib.util.module_from_spec(spec)


_register_package()


@dataclass(frozen=True)
class Method:
    """A method that was found: its settings as ``written`` and where its code lies. Nothing of it is imported yet.

    ``python`` is the interpreter that its workers run in.
    """

    name: str
    written: MethodConfig
    module: str
    file: Path
    python: Path = Path(sys.executable)

    @property
    def is_of_a_package(self) -> bool:
        """Whether the method came by an entry point of another package."""
        return not self.module.startswith((f"{PACKAGE}.", _FILE_MODULE))

    @cached_property
    def config(self) -> MethodConfig:
        """The settings with ``train`` by component throughout. Imports the adapter, which knows the components."""
        return self.written.by_component(list(self.components))

    @cached_property
    def info(self) -> MethodInfo:
        """What the method is, from its YAML; for a file without one, from its class."""
        if self.written.info:
            values = {"name": self.name, **self.written.info}
            return validate(MethodInfo, values, f"info of method {self.name}")
        declared = self._declared_info
        if declared is None:
            return MethodInfo(name=self.name, title=self.name, licence="unknown")
        return MethodInfo.model_validate({**declared.model_dump(), "name": self.name})

    @property
    def _declared_info(self) -> MethodInfo | None:
        try:
            return getattr(self._raw_class, "info", None)
        except ConfigurationError as error:
            if self.is_of_a_package:
                # Somebody else's package must not keep the other methods from being listed.
                _logger.warning("%s", error)
            elif self.script is None:
                raise
            # Else its libraries are in an environment of its own.
            return None

    @cached_property
    def segmenter_class(self) -> type[Segmenter]:
        """The method's class with ``info`` filled in. Imports the adapter.

        Raises
        ------
        ConfigurationError
            Where the file cannot be imported, has no such class, or the class does not declare what it must.
        """
        return type(self._raw_class.__name__, (self._raw_class,), {"info": self.info})

    @cached_property
    def _raw_class(self) -> type[Segmenter]:
        try:
            module = _import(self.module, self.file)
        except (Exception, SystemExit) as error:
            raise ConfigurationError(f"{self.file}: cannot be imported: {type(error).__name__}: {error}") from error
        cls = _pick_class(module, self.written.class_name, self.file)
        if slip := next(_slips(cls), None):
            raise ConfigurationError(f"{self.file}: {cls.__name__}: {slip}")
        return cls

    @property
    def components(self) -> dict[str, Component]:
        """The trained parts by name, in the order in which they are trained."""
        return {component.name: component for component in self.segmenter_class.components}

    def model_name(self, component: str) -> str:
        """Return the qualified name of the model of a component's parameters; of the method where it has none."""
        model = self.components[component].parameters
        named_by = self.segmenter_class if model.__module__ == Parameters.__module__ else model
        return f"{named_by.__module__}.{named_by.__qualname__}"

    def parameters(self, values: Tree) -> Tree:
        """Return ``values`` validated and complete, as plain JSON.

        Raises
        ------
        ConfigurationError
            For an unknown key (with the nearest known one) or a value that does not fit.
        """
        segmenter = self.build(values)
        train = {name: model.model_dump(mode="json") for name, model in segmenter.train.items()}
        infer = segmenter.infer_parameters.model_dump(mode="json")
        return {"train": train, "infer": infer, "decode": segmenter.decode_parameters.model_dump(mode="json")}

    def build(self, values: Tree) -> Segmenter:
        """Build the segmenter from plain parameter values ``{"train", "infer", "decode"}``.

        Raises
        ------
        ConfigurationError
            As :meth:`parameters`, and where the class has an ``__init__`` of another form.
        """
        cls = self.segmenter_class
        for component in values["train"]:
            if component not in self.components:
                raise UnknownNameError(f"component of {self.name}", component, self.components)
        train = {
            name: validate(part.parameters, values["train"].get(name, {}), f"{self.name}: train.{name}")
            for name, part in self.components.items()
        }
        infer = validate(cls.Infer, values["infer"], f"{self.name}: infer")
        decode = validate(cls.Decode, values["decode"], f"{self.name}: decode")
        try:
            segmenter = cls(train=train, infer=infer, decode=decode)
        except CrystalbenchError:
            raise
        except Exception as error:
            raise ConfigurationError(
                f"{self.file}: {cls.__name__} cannot be built: {type(error).__name__}: {error} "
                "(an __init__ takes train, infer and decode by keyword and hands them to super().__init__)"
            ) from error
        if not hasattr(segmenter, "decode_parameters"):
            raise ConfigurationError(
                f"{self.file}: {cls.__name__}.__init__ must call "
                "super().__init__(train=train, infer=infer, decode=decode)"
            )
        return segmenter

    def preset(self, preset: Preset) -> Tree:
        """Return the complete, validated values of a preset."""
        return self.parameters(self.config.values(preset))

    @cached_property
    def sources(self) -> tuple[Path, ...]:
        """The adapter's file and every module of its package that it imports, directly or not."""
        return tuple(sorted(self._imports))

    @cached_property
    def libraries(self) -> tuple[str, ...]:
        """The top-level modules outside of the standard library that the sources import; a package's own is one."""
        names = {name.split(".")[0] for imported in self._imports.values() for name in imported}
        return tuple(sorted(names - set(sys.stdlib_module_names) - {"crystalbench", ""}))

    @cached_property
    def _imports(self) -> dict[Path, list[str]]:
        """What each of the sources imports, by full name."""
        found: dict[Path, list[str]] = {}
        pending = {self.file: self.module}
        while pending:
            file, module = pending.popitem()
            found[file] = list(_imported(file, module))
            modules = {own: name for name in found[file] for own, name in _modules_of(name, self.file, self.module)}
            pending |= {own: name for own, name in modules.items() if own not in found}
        return found

    @cached_property
    def library_versions(self) -> dict[str, str]:
        """The versions of the packages that the ``libraries`` come from; what is not installed is left out."""
        packages = packages_distributions()
        names = {name for module in self.libraries for name in packages.get(module, [])}
        return {name: found for name in sorted(names) if (found := _version(name))}

    @cached_property
    def script(self) -> Tree | None:
        """The ``script`` block (PEP 723) of the file, which names the libraries that it needs; None without one.

        An installed package has said elsewhere what it needs.

        Raises
        ------
        ConfigurationError
            Where it is not what PEP 723 says.
        """
        return None if self.is_of_a_package else _script_block(self.file)

    @property
    def environment(self) -> Tree | None:
        """Python and packages of the environment of its own that the method runs in; None where it is this one."""
        return None

    def reads(self, values: Tree) -> Callable[[Sample], Sequence[Path]]:
        """Return what says which files the labels of a sample depend on, see :meth:`Segmenter.reads`."""
        return self.build(values).reads


def find_methods(adapters: Sequence[str] = ()) -> dict[str, Method]:
    """Find every method by name: built-in ones, entry points, and the ``adapters`` given as ``FILE[:Class]``.

    Raises
    ------
    ConfigurationError
        For two methods of one name, a name that is reserved, or a file that does not exist.
    """
    methods: dict[str, Method] = {}
    for method in _all(adapters):
        if method.name in methods:
            raise ConfigurationError(
                f"two methods are called {method.name!r}: {methods[method.name].file} and {method.file}; "
                "rename one of the files"
            )
        methods[method.name] = method
    return methods


def find_method(name: str, adapters: Sequence[str] = ()) -> Method:
    """Find one method.

    Raises
    ------
    UnknownNameError
        Where there is none of this name; names the nearest.
    """
    methods = find_methods(adapters)
    if name not in methods:
        raise _unknown_method(name, methods)
    return methods[name]


def choose_methods(names: Sequence[str], adapters: Sequence[str] = ()) -> dict[str, Method]:
    """Return the methods called ``names``, in this order; every method where ``all`` is among them.

    Raises
    ------
    UnknownNameError
        As :func:`find_method`.
    """
    methods = find_methods(adapters)
    if "all" in names:
        return methods
    for name in names:
        if name not in methods:
            raise _unknown_method(name, methods, "all")
    return {name: methods[name] for name in names}


def _unknown_method(name: str, methods: Mapping[str, Method], *others: str) -> UnknownNameError:
    files = [method for method in methods.values() if method.module.startswith(_FILE_MODULE)]
    note = "; ".join(f"the file {method.file.name} is called {method.name!r}" for method in files)
    return UnknownNameError("method", name, [*methods, *others], note)


def _all(adapters: Sequence[str]) -> Iterator[Method]:
    for file in sorted((data_dir("configs") / "methods").glob("*.yaml")):
        config = read_yaml(file, MethodConfig)
        yield Method(file.stem, config, f"{PACKAGE}.{config.method}", data_dir("adapters") / f"{config.method}.py")
    for point in entry_points(group=PACKAGE):
        try:
            yield _from_entry_point(point)
        except ConfigurationError as error:
            # Somebody else's package must not keep the other methods from running.
            _logger.warning("the method %r of another package is left out: %s", point.name, error)
    for adapter in adapters:
        yield _from_file(adapter)


def _from_entry_point(point: EntryPoint) -> Method:
    top, *inner = point.module.split(".")
    spec = importlib.util.find_spec(top)
    for depth in range(len(inner)):
        # importlib.util.find_spec would import the packages around the module.
        places = spec.submodule_search_locations if spec else None
        spec = PathFinder.find_spec(".".join([top, *inner[: depth + 1]]), places) if places else None
    if spec is None or spec.origin is None:
        raise ConfigurationError(f"entry point {point.name!r}: module {point.module} does not exist")
    return _with_yaml_beside(point.name, point.module, Path(spec.origin), point.attr or None)


def _from_file(adapter: str) -> Method:
    path, colon, class_name = adapter.rpartition(":")
    if not colon or not path.endswith(".py"):
        path, class_name = adapter, ""
    file = Path(path).resolve()
    if not file.is_file():
        raise ConfigurationError(f"--adapter {adapter}: {file} does not exist")
    return _with_yaml_beside(file.stem, f"{_FILE_MODULE}{file.stem}", file, class_name or None)


def _with_yaml_beside(name: str, module: str, file: Path, class_name: str | None) -> Method:
    if name in RESERVED:
        raise ConfigurationError(f"{file}: {name!r} means something else to `crystalbench run`; call it otherwise")
    settings = file.with_name(f"{name}.yaml")
    config = read_yaml(settings, MethodConfig) if settings.is_file() else MethodConfig(method=name)
    if class_name:
        config = config.model_copy(update={"class_name": class_name})
    return Method(name, config, module, file)


def _import(name: str, file: Path) -> ModuleType:
    if not name.startswith(_FILE_MODULE):
        return importlib.import_module(name)
    known = sys.modules.get(name)
    # Files of two folders may have one stem.
    if known is None or known.__file__ != str(file):
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]


def _pick_class(module: ModuleType, name: str | None, file: Path) -> type[Segmenter]:
    classes = {
        key: value
        for key, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, Segmenter) and value.__module__ == module.__name__
    }
    if name is None and len(classes) == 1:
        return next(iter(classes.values()))
    if name is None:
        raise ConfigurationError(
            f"{file}: defines {len(classes)} subclasses of Segmenter ({', '.join(classes) or 'none'}); "
            "name one with FILE:Class or the key `class` of its YAML"
        )
    if name not in classes:
        raise UnknownNameError(f"class in {file}", name, classes)
    return classes[name]


def _slips(cls: Any) -> Iterator[str]:
    """Yield what an author's class declares otherwise than :class:`Segmenter` says."""
    if not isinstance(getattr(cls, "info", None), MethodInfo | None):
        yield "info must be a MethodInfo(...)"
    for name in ("Infer", "Decode"):
        if not _is_model(getattr(cls, name)):
            yield f"{name} must be a subclass of Parameters"
    if not isinstance(cls.components, tuple | list):
        yield "components must be a tuple: with one component (Component(...),), with a comma"
        return
    before: set[str] = set()
    for component in cls.components:
        if not isinstance(component, Component):
            yield f"components must hold Component(...) alone, not {component!r}"
            return
        if not _is_model(component.parameters):
            yield f"the parameters of component {component.name!r} must be a subclass of Parameters"
        for required in set(component.requires) - before:
            yield f"component {component.name!r} requires {required!r}, which must be a component before it"
        before.add(component.name)


def _is_model(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Parameters)


def _script_block(file: Path) -> Tree | None:
    blocks = list(_SCRIPT.finditer(file.read_text(encoding="utf-8")))
    if not blocks:
        return None
    lines = blocks[0]["content"].splitlines()
    try:
        block = tomllib.loads("\n".join(line.removeprefix("#").removeprefix(" ") for line in lines))
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{file}: the `# /// script` block is not TOML: {error}") from error
    if len(blocks) > 1:
        raise ConfigurationError(f"{file}: has {len(blocks)} `# /// script` blocks")
    return block


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _imported(file: Path, module: str) -> Iterator[str]:
    """Yield the full names of what a module imports, and of what may be a module in ``from a import b``."""
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError) as error:
        raise ConfigurationError(f"{file}: cannot be read as Python: {error}") from error
    folders = module.split(".") if file.name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            inside = folders[: len(folders) - node.level + 1] if node.level else []
            base = ".".join([*inside, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _modules_of(name: str, file: Path, module: str) -> Iterator[tuple[Path, str]]:
    """Yield the files of ``name`` and of the packages that it lies in, where they are those of ``file``'s package."""
    package = PACKAGE if module.startswith(f"{PACKAGE}.") else module.split(".")[0]
    above = module.count(".") - package.count(".") - (file.name != "__init__.py")
    if above < 0 or not f"{name}.".startswith(f"{package}."):
        return
    folder = file.parents[above]
    parts = name.split(".")[package.count(".") + 1 :]
    for count in range(len(parts) + 1):
        inside, found = folder.joinpath(*parts[:count]), ".".join([package, *parts[:count]])
        yield from ((own, found) for own in (inside.with_suffix(".py"), inside / "__init__.py") if own.is_file())
