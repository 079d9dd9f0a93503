"""Plots of a sweep."""

import warnings
from pathlib import Path

import matplotlib
import optuna
from optuna.visualization import matplotlib as plots


def draw_sweep(study: optuna.Study, metric: str, folder: Path) -> list[Path]:
    """Write plots of a sweep: its history, what each parameter matters, and the combinations.

    What cannot be drawn yet, such as importances after a single trial, is left out.
    """
    name = f"validation {metric}"
    matplotlib.use("Agg")
    # Optuna calls these functions experimental; nothing is to be done about that by who sees it.
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)

    drawings = {
        "history": lambda: plots.plot_optimization_history(study, target_name=name),
        "importance": lambda: plots.plot_param_importances(
            study, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0), target_name=name
        ),
        "parallel_coordinates": lambda: plots.plot_parallel_coordinate(study, target_name=name),
    }
    written = []
    for title, draw in drawings.items():
        try:
            figure = draw().figure
        except (RuntimeError, ValueError):
            continue
        figure.set_size_inches(10, 6)
        path = folder / f"{title}.png"
        figure.savefig(path, dpi=100, bbox_inches="tight")
        written.append(path)
    return written
