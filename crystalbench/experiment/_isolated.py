"""Methods that run in an environment of their own. Their files are not imported here: only files cross the border."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from crystalbench._exceptions import ConfigurationError
from crystalbench._files import canonical_json
from crystalbench.config import Tree
from crystalbench.data import Sample
from crystalbench.experiment._environments import environment_python
from crystalbench.experiment._jobs import DESCRIPTION_FILE, DescribeJob, Description
from crystalbench.experiment._local import foreign_environment, run_job
from crystalbench.experiment._record import Failure
from crystalbench.experiment._watch import Limits
from crystalbench.registry import Method, find_method
from crystalbench.segmenter import Component, MethodInfo, Parameters

_TIMEOUT_S = 300.0
_TOLD = ("ConfigurationError", "UnknownNameError")


def isolate(methods: Mapping[str, Method], say: Callable[[str], None]) -> dict[str, Method]:
    """Return ``methods`` with those whose file carries a ``script`` block in an environment of their own.

    Raises
    ------
    ConfigurationError
        Where an environment cannot be built. Nothing has run then, and without it nobody knows the method's
        parameters, nor so which experiment has failed: the call is wrong, there is no record.
    """
    usual = [name for name, method in methods.items() if method.script is None]
    if usual:
        say(f"without a `# /// script` block, and so run in this environment: {', '.join(usual)}")
    return {name: _isolated(method, say) for name, method in methods.items()}


def check_isolated(name: str, adapters: Sequence[str], say: Callable[[str], None]) -> int:
    """Run ``crystalbench check`` in the environment of a method's own; return its exit status.

    Raises
    ------
    ConfigurationError
        As :func:`isolate`, and for a method without a ``script`` block.
    """
    method = find_method(name, adapters)
    if method.script is None:
        raise ConfigurationError(f"{method.file} has no `# /// script` block: leave out --isolated")
    python = _isolated(method, say).python
    given = [part for adapter in adapters for part in ("--adapter", adapter)]
    command = [str(python), "-P", "-m", "crystalbench", "check", name, *given]
    return subprocess.run(command, env=foreign_environment()).returncode


def _isolated(method: Method, say: Callable[[str], None]) -> Method:
    if method.script is None:
        return method
    python = environment_python(method.file, method.script, say)
    return IsolatedMethod(method.name, method.written, method.module, method.file, python)


@dataclass(frozen=True)
class IsolatedMethod(Method):
    """A method whose file is imported by workers alone, in the environment of ``python``; one of them describes it."""

    @cached_property
    def info(self) -> MethodInfo:
        """What the method is."""
        return self._facts.info

    @property
    def components(self) -> dict[str, Component]:
        """The trained parts by name; the models of their parameters stay in the environment."""
        return {
            part.name: Component(part.name, Parameters, part.fit_version, part.requires)
            for part in self._facts.components
        }

    def model_name(self, component: str) -> str:
        """Return the qualified name of what the parameters of ``component`` are declared by."""
        return next(part.model for part in self._facts.components if part.name == component)

    def parameters(self, values: Tree) -> Tree:
        """Return ``values`` validated and complete, as plain JSON; raises as for any method."""
        key = canonical_json(values)
        if key not in self._completed:
            self._completed[key] = self._describe(values).parameters
        return self._completed[key]

    def reads(self, values: Tree) -> Callable[[Sample], Sequence[Path]]:
        """Return what knows of no files: samples do not cross the border before they are predicted."""
        return lambda _: ()

    @cached_property
    def library_versions(self) -> dict[str, str]:
        """The versions in the environment of the libraries that the sources import."""
        return self._facts.libraries

    @cached_property
    def environment(self) -> Tree | None:
        """The version of Python and those of all packages in the environment."""
        return {"python": self._facts.python, "packages": self._facts.packages}

    @cached_property
    def _facts(self) -> Description:
        return self._describe(None)

    @cached_property
    def _completed(self) -> dict[bytes, Tree]:
        return {}

    def _describe(self, values: Tree | None) -> Description:
        with tempfile.TemporaryDirectory() as folder:
            spec = f"{self.file}:{self.written.class_name}" if self.written.class_name else str(self.file)
            job = DescribeJob(method=self.name, adapters=(spec,), values=values, folder=Path(folder))
            outcome = run_job(job, lambda _: None, Limits(timeout=_TIMEOUT_S), self.python)
            if outcome.failure:
                raise ConfigurationError(self._reason(outcome.failure))
            return Description.model_validate_json((job.folder / DESCRIPTION_FILE).read_bytes())

    def _reason(self, failure: Failure) -> str:
        if failure.type in _TOLD:
            return failure.message
        return f"{self.file}: cannot be described: {failure.type}: {failure.message}\n{failure.log_tail}"
