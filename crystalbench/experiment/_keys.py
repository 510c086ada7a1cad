"""The keys that say what has been done already: sha256 of canonical JSON."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crystalbench._files import canonical_json, file_sha256, path_sha256, sha256
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
    parameters = values["train"][component]
    return key_of(
        component=component,
        model=method.model_name(component),
        fit_version=method.components[component].fit_version,
        parameters=parameters,
        initial_weights=init_sha256(parameters),
        data=data,
        seed=seed,
        device=device.split(":")[0],
        threads=threads,
        requires=dict(requires),
        **isolation(method),
    )


def prediction_base(method: Method, values: Tree, checkpoints: Mapping[str, str], *, device: str, threads: int) -> str:
    """Return the part of the prediction keys that all images of an experiment have in common."""
    return key_of(
        class_name=method.config.class_name,
        checkpoints=dict(checkpoints),
        infer=values["infer"],
        decode=values["decode"],
        sources=source_sha256(method),
        libraries=method.library_versions,
        device=device.split(":")[0],
        threads=threads,
        precision="float32",
        **isolation(method),
    )


def isolation(method: Method) -> Tree:
    """Return the part of every key that tells a method in an environment of its own from the same method in ours."""
    return {} if method.environment is None else {"environment": method.environment}


def source_sha256(method: Method) -> str:
    """Return one hash of the adapter's source and of every module of its package that it imports."""
    names = {file: os.path.relpath(file, method.file.parent) for file in method.sources}
    return key_of(sources={name: file_sha256(file) for file, name in names.items()})


def init_sha256(parameters: Tree) -> str | None:
    """Return the hash of the file or folder that a component's training starts from, if it does from one.

    Weights are identified by their content, so that replacing the file retrains.
    """
    init = parameters.get("init")
    return path_sha256(Path(init)) if isinstance(init, str) and init and Path(init).exists() else None
