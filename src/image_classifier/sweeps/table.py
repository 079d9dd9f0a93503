"""The table of trials that src/sweep.py prints: one line for each, when it is finished."""

from optuna.trial import FrozenTrial, TrialState

from image_classifier.sweeps.sweep_file import Sweep

LINE = "{:>7}  {:13}  {:>19}  {:>7}"


def header(sweep: Sweep) -> str:
    """The titles of the columns."""
    titles = LINE.format("trial", "experiment", f"validation {sweep.metric}", "seconds")
    return "  ".join([titles, *(f"{title:>{width}}" for title, width in _columns(sweep).values())])


def line(place: str, trial: FrozenTrial, sweep: Sweep) -> str:
    """A finished trial: its place, such as "3/20", its result and its parameters."""
    result = "failed" if trial.value is None else f"{trial.value:.4f}"
    name = trial.user_attrs.get("experiment", "")
    cells = [LINE.format(place, name, result, f"{trial.duration.total_seconds():.1f}")]
    for parameter, (_, width) in _columns(sweep).items():
        cells.append(f"{shown(trial.params.get(parameter, '')):>{width}}")
    if trial.state == TrialState.PRUNED:
        cells.append(f"stopped after epoch {trial.last_step}")
    return "  ".join([*cells, trial.user_attrs.get("error", "")]).rstrip()


def shown(value: object) -> str:
    """A parameter's value, with at most six digits if it is a fraction."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _columns(sweep: Sweep) -> dict[str, tuple[str, int]]:
    """Parameter -> title and width of its column. No two sections have a key of the same name."""
    titles = {name: name.rpartition(".")[2] for name in sweep.parameters}
    return {
        name: (title, max(9, len(title), *map(len, map(shown, sweep.parameters[name].extremes()))))
        for name, title in titles.items()
    }
