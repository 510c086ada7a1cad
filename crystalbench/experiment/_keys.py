"""The keys that say what has been done already: sha256 of canonical JSON."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from typing import Any

from crystalbench._files import canonical_json, file_sha256, sha256
from crystalbench.config import Tree
from crystalbench.registry import Method


def key_of(**parts: Any) -> str:
    """Return the key of ``parts``."""
    return sha256(canonical_json(parts))


def training_key(
    method: Method,
    component: str,
    values: Tree,
    data: Tree,
    *,
    seed: int,
    device: str,
    threads: int,
    requires: Mapping[str, str],
) -> str:
    """Return the key of a training: not the source, so that a fix in ``decode`` does not retrain.

    The parameter model's qualified name keeps apart two methods that give their components one name;
    methods that share a component share its model.
    """
    part = method.components[component]
    model = part.parameters
    named_by = model if model.__module__ != "crystalbench.segmenter" else method.segmenter_class
    parameters = values["train"][component]
    return key_of(
        component=component,
        model=f"{named_by.__module__}.{named_by.__qualname__}",
        fit_version=part.fit_version,
        parameters=parameters,
        initial_weights=_file_identity(parameters.get("init")),
        data=data,
        seed=seed,
        device=device.split(":")[0],
        threads=threads,
        requires=dict(requires),
    )


def prediction_base(method: Method, values: Tree, checkpoints: Mapping[str, str], *, device: str, threads: int) -> str:
    """Return the part of the prediction keys that all images of an experiment have in common."""
    return key_of(
        class_name=method.config.class_name,
        checkpoints=dict(checkpoints),
        infer=values["infer"],
        decode=values["decode"],
        sources=source_sha256(method),
        libraries=library_versions(method),
        device=device.split(":")[0],
        threads=threads,
        precision="float32",
    )


def source_sha256(method: Method) -> str:
    """Return one hash of the adapter's source and of every private neighbour that it imports."""
    return key_of(sources={file.name: file_sha256(file) for file in method.sources})


def library_versions(method: Method) -> dict[str, str]:
    """Return the versions of the libraries that the adapter imports; what is not installed is left out."""
    distributions = packages_distributions()
    names = {name for module in method.libraries for name in distributions.get(module, [])}
    return {name: found for name in sorted(names) if (found := _version(name))}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _file_identity(init: Any) -> str | None:
    """Weights given as a file are identified by their content, so that replacing the file retrains."""
    if isinstance(init, str) and Path(init).is_file():
        return file_sha256(Path(init))
    return None
