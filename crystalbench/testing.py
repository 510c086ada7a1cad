"""The conformance suite: what every method must do before it is compared with others.

``crystalbench check NAME`` runs it. A method's author runs it from pytest::

    from pathlib import Path

    import pytest

    from crystalbench.testing import CHECKS, Suite

    ADAPTER = Path(__file__).with_name("mymethod.py")


    @pytest.fixture(scope="module")
    def suite(tmp_path_factory):
        return Suite("mymethod", tmp_path_factory.mktemp("mymethod"), [str(ADAPTER)])


    @pytest.mark.parametrize("check", CHECKS)
    def test_conformance(check, suite):
        suite.require(check)

The method is trained on a handful of made micrographs, with the values of the section ``check`` of its YAML laid over
``quick``: make it so tiny there that a training takes seconds. What it is known to fail stands in
``check.expected_failures`` with the reason.
"""

from __future__ import annotations

import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from crystalbench._checks import CHECKS, Check, NonconformityError, NotApplicableError
from crystalbench._exceptions import CrystalbenchError, UnknownNameError
from crystalbench._subject import Subject

__all__ = ["CHECKS", "Check", "Result", "Suite", "counts"]

Outcome = Literal["ok", "failed", "expected failure", "not applicable", "not run"]

_ENOUGH = ("ok", "not applicable")


@dataclass(frozen=True)
class Result:
    """How a check ended.

    ``not applicable``: the method has no such part. ``not run``: another check that this one needs did not pass.
    ``trace`` is the traceback of an error that the method raised.
    """

    check: str
    outcome: Outcome
    reason: str = ""
    trace: str = ""
    seconds: float = 0.0

    @property
    def ran(self) -> bool:
        """Say whether the check asked the method anything."""
        return self.outcome in ("ok", "failed", "expected failure")


class Suite:
    """The checks of one method. Each is run once, whoever asks for it, and trainings are shared.

    Parameters
    ----------
    name
        The method.
    folder
        An empty folder for micrographs and trainings.
    adapters
        Files given as ``FILE[:Class]``, as with ``--adapter``.

    Raises
    ------
    UnknownNameError
        Where there is no such method, or its YAML expects the failure of a check that does not exist.
    """

    def __init__(self, name: str, folder: Path, adapters: Sequence[str] = ()) -> None:
        self._subject = Subject(name, folder, adapters)
        self._expected = self._subject.method.written.check.expected_failures
        self._results: dict[str, Result] = {}
        for check in self._expected:
            _known(check, f"check in check.expected_failures of {name}")

    def run(self, name: str) -> Result:
        """Run one check, and before it those that it needs.

        Raises
        ------
        UnknownNameError
            Where there is no such check.
        """
        check = _known(name, "check")
        if name not in self._results:
            self._results[name] = self._judged(self._run(check))
        return self._results[name]

    def require(self, name: str) -> None:
        """Run one check as a test of pytest: it passes, fails, is skipped, or is an expected failure."""
        import pytest

        result = self.run(name)
        if result.outcome == "failed":
            pytest.fail(f"{result.reason}\n{CHECKS[name].asks}\n{result.trace}", pytrace=False)
        if result.outcome == "expected failure":
            pytest.xfail(result.reason)
        if result.outcome != "ok":
            pytest.skip(f"{result.outcome}: {result.reason}")

    def _run(self, check: Check) -> Result:
        for needed in check.needs:
            if self.run(needed).outcome not in _ENOUGH:
                return Result(check.name, "not run", f"needs {needed}")
        start = time.perf_counter()
        result = self._ask(check)
        return replace(result, seconds=time.perf_counter() - start)

    def _ask(self, check: Check) -> Result:
        try:
            check.function(self._subject)
        except NotApplicableError as reason:
            return Result(check.name, "not applicable", str(reason))
        except (NonconformityError, CrystalbenchError) as error:
            return Result(check.name, "failed", str(error))
        except (Exception, SystemExit) as error:
            return Result(check.name, "failed", f"{type(error).__name__}: {error}", traceback.format_exc())
        return Result(check.name, "ok")

    def _judged(self, result: Result) -> Result:
        """Hold a result against what the YAML expects."""
        if result.check not in self._expected or result.outcome == "not run":
            return result
        expected = self._expected[result.check]
        if result.outcome == "failed":
            return replace(result, outcome="expected failure", reason=f"{expected} ({result.reason})")
        reason = f"does not fail, though check.expected_failures says {expected!r}: take that out of the YAML"
        return replace(result, outcome="failed", reason=reason)


def counts(results: Sequence[Result]) -> str:
    """Say how many checks ran, and how they ended."""
    ended = Counter(result.outcome for result in results)
    ran = sum(result.ran for result in results)
    ways = ", ".join(f"{count} {outcome}" for outcome, count in ended.items())
    return f"{ran} of {len(results)} checks ran: {ways}"


def _known(name: str, kind: str) -> Check:
    if name not in CHECKS:
        raise UnknownNameError(kind, name, CHECKS)
    return CHECKS[name]
