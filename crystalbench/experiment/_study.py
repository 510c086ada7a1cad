"""The Optuna study of a search: a picture of its records, made anew wherever it is lost."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from crystalbench._exceptions import ConfigurationError
from crystalbench.experiment._grid import Choice, shuffled
from crystalbench.experiment._points import PointRecord, Search

if TYPE_CHECKING:
    import optuna

STUDY_FILE = "study.db"
_LOCK_FILE = "study.lock"


@dataclass(frozen=True)
class Mirror:
    """Puts records into a study, each once, however many processes do so.

    The study may be away for a while: what it lacks it gets with the next call that finds it.
    """

    search: Search
    url: str
    say: Callable[[str], None]

    def check(self) -> None:
        """Open the study, or make it.

        Raises
        ------
        ConfigurationError
            Where Optuna is not installed, or there is no such storage.
        """
        try:
            with self._lock():
                self._study()
        except ImportError as error:
            raise ConfigurationError(f"tune needs {error.name}: pip install 'crystalbench[tune]'") from error
        except Exception as error:
            raise ConfigurationError(f"--storage {_shown(self.url)} cannot be opened: {_reason(error)}") from error

    def add(self, records: Iterable[PointRecord]) -> None:
        """Add a trial for each record that has none."""
        try:
            with self._lock():
                study = self._study()
                known = {(t.user_attrs.get("key"), t.state.name) for t in study.get_trials(deepcopy=False)}
                trials = [(record.key, _trial(record, self.search.grid.lists)) for record in records]
                study.add_trials(trial for key, trial in trials if (key, trial.state.name) not in known)
        except Exception as error:
            # The records are safe, and work must not stop because a server does.
            self.say(f"the study at {_shown(self.url)} is brought up to date later: {_reason(error)}")

    def _lock(self) -> FileLock:
        self.search.folder.mkdir(parents=True, exist_ok=True)
        return FileLock(self.search.folder / _LOCK_FILE)

    def _study(self) -> optuna.Study:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(
            storage=self.url, study_name=study_name(self.search), direction="maximize", load_if_exists=True
        )
        if "criterion" not in study.user_attrs:
            study.set_user_attr("criterion", "mean PQ over the validation images")
        return study


def study_name(search: Search) -> str:
    """Return the name of a search's study: data set, method (and fold), preset, and the key of what is searched."""
    return f"{search.request.dataset.name}/{search.title}/{search.request.preset}/{search.key[:12]}"


def default_storage(search: Search) -> str:
    """Return the URL of the file that the study lies in where the user names no storage."""
    return f"sqlite:///{(search.folder / STUDY_FILE).resolve()}"


def suggest(
    choices: Sequence[Choice],
    lists: Mapping[str, Sequence[Any]],
    tried: Sequence[tuple[Choice, float | None]],
    count: int,
    seed: int,
) -> Choice:
    """Return what Optuna's TPE sampler tries next.

    Parameters
    ----------
    choices, lists
        The settings that it chooses from, and the values of each parameter.
    tried
        What was tried, with the best PQ of its points; None while there is none.
    count
        How many are tried in all; the first third is drawn at random.
    seed
        Of the sampler.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=seed + len(tried), n_startup_trials=max(2, count // 3))
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.add_trials(
        optuna.trial.create_trial(
            state=optuna.trial.TrialState.FAIL if value is None else optuna.trial.TrialState.COMPLETE,
            value=value,
            **_parameters(choice, lists),
        )
        for choice, value in tried
    )
    asked = study.ask(_parameters(choices[0], lists)["distributions"]).params
    before = [_flat(choice) for choice, _ in tried]
    # What was tried already is no news; then one that was not, at random.
    left = [choice for choice in shuffled(choices, seed) if _flat(choice) not in before]
    return next((choice for choice in left if _flat(choice) == asked), left[0])


def _trial(record: PointRecord, lists: Mapping[str, Sequence[Any]]) -> optuna.trial.FrozenTrial:
    import optuna

    state = _state(record)
    told = {
        "key": record.key,
        "stage": record.stage,
        "status": record.status,
        "error": f"{record.error.type}: {record.error.message}" if record.error else None,
        "pq_by_image": {image.image: image.pq for image in record.images},
        "training_s": {name: training.seconds for name, training in record.trainings.items()},
        "infer_s": record.infer_s,
        "decode_s": record.decode_s,
    }
    return optuna.trial.create_trial(
        state=state,
        value=record.pq if state == optuna.trial.TrialState.COMPLETE else None,
        user_attrs=told,
        **_parameters(record.parameters, lists),
    )


def _state(record: PointRecord) -> optuna.trial.TrialState:
    from optuna.trial import TrialState

    if record.is_pruned:
        return TrialState.PRUNED
    return TrialState.COMPLETE if record.status == "ok" and record.pq is not None else TrialState.FAIL


def _parameters(choice: Choice, lists: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    import optuna

    distributions = {
        name: optuna.distributions.CategoricalDistribution(tuple(_scalar(value) for value in lists[name]))
        for name in choice
    }
    return {"params": _flat(choice), "distributions": distributions}


def _flat(choice: Choice) -> Choice:
    return {name: _scalar(value) for name, value in choice.items()}


def _scalar(value: Any) -> Any:
    """Return a value as Optuna stores it: lists as JSON."""
    return json.dumps(value) if isinstance(value, list | tuple | dict) else value


def _shown(url: str) -> str:
    """Return a URL without its password."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        return "URL"


def _reason(error: Exception) -> str:
    """Return the first line of what lies at the bottom of an error."""
    while error.__cause__ is not None and isinstance(error.__cause__, Exception):
        error = error.__cause__
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}"
