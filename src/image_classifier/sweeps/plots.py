"""Plots of a sweep."""

import warnings
from pathlib import Path

import matplotlib
import optuna
from optuna.visualization import matplotlib as plots


def draw_sweep(study: optuna.Study, metric: str, folder: Path) -> list[Path]:
    """Save plots of a sweep: history, importance of each parameter, parallel coordinates.

    Returns:
        The files. Plots that need more trials, such as importances after a single one, are
        left out.
    """
    name = f"validation {metric}"
    matplotlib.rcdefaults()  # a user's matplotlibrc may want LaTeX, or other sizes
    # Optuna marks these functions as experimental, which users can do nothing about.
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    # Matplotlib's warning if a parameter has had the same value in all trials so far.
    warnings.filterwarnings("ignore", message="Attempting to set identical")

    plotters = {
        "history": lambda: plots.plot_optimization_history(study, target_name=name),
        "importance": lambda: plots.plot_param_importances(
            study, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0), target_name=name
        ),
        "parallel_coordinates": lambda: plots.plot_parallel_coordinate(study, target_name=name),
    }
    written = []
    for title, plot in plotters.items():
        try:
            figure = plot().figure
        except (RuntimeError, ValueError):
            continue
        figure.set_size_inches(10, 6)
        path = folder / f"{title}.png"
        figure.savefig(path, dpi=100, bbox_inches="tight")
        written.append(path)
    return written
