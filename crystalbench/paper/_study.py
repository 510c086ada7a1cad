"""Which experiments the tables and figures stand on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Literal, NamedTuple

from crystalbench.config import Tree, flatten, merge
from crystalbench.experiment import Experiment, Request, plan
from crystalbench.paper._reported import TABLE_2

METHODS = tuple(TABLE_2)
"""The rows of Table II, in the paper's order."""

_FACTORS: Mapping[int, list[Any]] = {2: ["input", 1.0], 3: ["input", "2*input", 1.0], 4: ["input", 0.5, 0.75, 1.0]}
_NAMES = {"input": "r₁", "2*input": "2r₁"}
_THRESHOLDS: Mapping[int, list[float]] = {2: [1.0, 0.25], 3: [1.0, 0.5, 0.25], 4: [1.0, 0.5, 0.25, 0.125]}
# The paper gives those of N = 4 alone: of fewer maps the first, and the background's.
_LOSS_WEIGHTS: Mapping[int, list[float]] = {2: [2, 4, 1], 3: [2, 4, 6, 1], 4: [2, 4, 6, 8, 1]}


class Fusion(NamedTuple):
    """A row of Table I: the number of resize factors N, and how their flow fields are fused."""

    n: int
    kind: Literal["average", "attention"]

    @property
    def factors(self) -> str:
        """The resize factors, as the paper writes them."""
        written = (_NAMES[factor] if isinstance(factor, str) else f"{factor:g}" for factor in _FACTORS[self.n])
        return f"({', '.join(written)})"

    @property
    def label(self) -> str:
        """The fusion, as the paper writes it."""
        shares = ", ".join(f"{100 * share:g}%" for share in _THRESHOLDS[self.n])
        return "Average" if self.kind == "average" else f"Attention; t=({shares})"

    def values(self, sima: Tree) -> Tree:
        """Return the parameters of this row's experiment, from those of SiMA."""
        infer = {**sima["infer"], "resize_factors": _FACTORS[self.n], "fusion": self.kind}
        if self.kind == "average":
            return {**sima, "train": {"cp": sima["train"]["cp"]}, "infer": infer}
        attention = {"thresholds": _THRESHOLDS[self.n], "loss_weights": _LOSS_WEIGHTS[self.n]}
        return merge(sima, {"train": {"attention": attention}, "infer": infer})


FUSIONS = tuple(Fusion(n, kind) for n in _FACTORS for kind in ("average", "attention"))
"""The rows of Table I, in the paper's order."""


@dataclass(frozen=True)
class Study:
    """The experiments of Table II by method and those of Table I by row; one experiment a seed.

    Table III and the figures show those of Table II. Without SiMA Table I has no rows.
    """

    request: Request
    methods: Mapping[str, Sequence[Experiment]]
    fusions: Mapping[Fusion, Sequence[Experiment]]

    @property
    def experiments(self) -> list[Experiment]:
        """All experiments, each once, in the order in which they are to be done."""
        found: dict[str, Experiment] = {}
        for experiment in chain(*self.methods.values(), *self.fusions.values()):
            found.setdefault(experiment.key, experiment)
        return list(found.values())


def plan_study(request: Request, say: Callable[[str], None]) -> Study:
    """Return the study of a request, whose methods are the rows of Table II.

    The rows of Table I are the paper's; all that they do not name is as of ``sima`` in this request, so that all of
    them share one flow network.

    Raises
    ------
    ConfigurationError, SplitError
        As :func:`crystalbench.experiment.plan`.
    """
    methods: dict[str, list[Experiment]] = {}
    for experiment in plan(request, say):
        methods.setdefault(experiment.method.name, []).append(experiment)
    known = [name for name in METHODS if name in methods]
    ordered = {name: methods[name] for name in [*known, *(name for name in methods if name not in known)]}
    sima = methods.get("sima")
    return Study(request, ordered, _fusions(request, sima[0].values, say) if sima else {})


def _fusions(request: Request, sima: Tree, say: Callable[[str], None]) -> dict[Fusion, list[Experiment]]:
    return {fusion: plan(_request(request, fusion, sima), say) for fusion in FUSIONS}


def _request(request: Request, fusion: Fusion, sima: Tree) -> Request:
    settings = tuple(f"{name}={json.dumps(value)}" for name, value in flatten(fusion.values(sima)))
    if fusion.kind == "attention":
        return replace(request, methods=("sima",), settings=settings)
    # What a search has chosen for SiMA is in its values; one of this method alone would part it from the other rows.
    return replace(request, methods=("cellpose-multiscale",), settings=settings, tuned=False)
