"""The grids of ``search`` in a method's settings: which trainings, and which points each of them is scored at."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from crystalbench._exceptions import ConfigurationError
from crystalbench.config import ParameterSet, Tree, search_lists

Choice = dict[str, Any]
"""Values of some parameters by dotted name, such as ``train.cp.lr``."""


@dataclass(frozen=True)
class Stage:
    """One component's grid, which is searched while all others stand still.

    Attributes
    ----------
    name
        The component; ``points`` where nothing that is trained is searched.
    lists
        The values of each of its ``train`` parameters.
    """

    name: str
    lists: Mapping[str, Sequence[Any]]

    @property
    def choices(self) -> list[Choice]:
        """Every combination, the last parameter changing first."""
        return combinations(self.lists)


@dataclass(frozen=True)
class Grid:
    """What there is to search.

    Attributes
    ----------
    fixed
        Parameters that ``search`` gives one value: they are set, not searched.
    stages
        In the order in which components depend on each other: the winner of one is fixed before the next.
    infer, decode
        Every combination of these; all are scored at each training.
    lists
        The values of every parameter that is searched.
    """

    fixed: Choice
    stages: tuple[Stage, ...]
    infer: tuple[Choice, ...]
    decode: tuple[Choice, ...]
    lists: Mapping[str, Sequence[Any]]


def read_grid(search: ParameterSet, components: Sequence[str], given: Sequence[str]) -> Grid:
    """Return the grid of ``search`` without the parameters ``given`` by the user, which stay as they are.

    Raises
    ------
    ConfigurationError
        Where values are not in a list.
    """
    lists = {name: values for name, values in search_lists(search) if name not in given}
    fixed = {name: values[0] for name, values in lists.items() if len(values) == 1}
    open_lists = {name: values for name, values in lists.items() if len(values) > 1}
    stages = [Stage(name, _part(open_lists, f"train.{name}.")) for name in components]
    searched = tuple(stage for stage in stages if stage.lists)
    infer, decode = (tuple(combinations(_part(open_lists, part))) for part in ("infer.", "decode."))
    return Grid(fixed, searched or (Stage("points", {}),), infer, decode, open_lists)


def combinations(lists: Mapping[str, Sequence[Any]]) -> list[Choice]:
    """Return every combination of the values, the last parameter changing first; one empty choice of nothing."""
    return [dict(zip(lists, values, strict=True)) for values in product(*lists.values())]


def chosen(choice: Choice) -> Tree:
    """Return a choice as the tree that sets it."""
    tree: Tree = {}
    for name, value in choice.items():
        *path, last = name.split(".")
        place = tree
        for key in path:
            place = place.setdefault(key, {})
        place[last] = value
    return tree


def described(choice: Choice) -> str:
    """Write the values of parameters on one line."""
    shown = (f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in choice.items())
    return ", ".join(shown).replace("'", "") or "nothing is trained"


def shares(sizes: Sequence[int], total: int) -> list[int]:
    """Share ``total`` trainings out among stages: alike, but none gets more than its grid has.

    Raises
    ------
    ConfigurationError
        Where a stage would get none.
    """
    if total < len(sizes):
        raise ConfigurationError(
            f"--trainings {total}: {len(sizes)} components are searched one after the other; each needs at least one"
        )
    given, rest = [0] * len(sizes), min(total, sum(sizes))
    while rest:
        number = min((n for n, size in enumerate(sizes) if given[n] < size), key=lambda n: given[n])
        given[number] += 1
        rest -= 1
    return given


def drawn(choices: Sequence[Choice], count: int, seed: int) -> list[Choice]:
    """Draw ``count`` choices at random and keep their order; a larger count holds those of a smaller one."""
    order = shuffled(choices, seed)[:count]
    return [choice for choice in choices if choice in order]


def shuffled(choices: Sequence[Choice], seed: int) -> list[Choice]:
    """Return the choices in an order that ``seed`` alone decides."""
    order = list(choices)
    random.Random(seed).shuffle(order)
    return order


def _part(lists: Mapping[str, Sequence[Any]], prefix: str) -> dict[str, Sequence[Any]]:
    return {name: values for name, values in lists.items() if name.startswith(prefix)}
