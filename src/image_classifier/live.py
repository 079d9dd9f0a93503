"""DVCLive, set up for this repository."""

import getpass
import os
import subprocess
from functools import partial
from pathlib import Path

from dvclive import Live, monitor_system, report
from dvclive.env import DVC_ROOT

# DVC's own page loads Vega from the network; this one carries it. `dvc plots show` uses it too.
PAGE = Path(".dvc/plots/page.html")


def open_live(folder: str, save_stage: str | None = None) -> Live:
    """A logger that writes below `folder`, with a report.html that opens without a network.

    Args:
        folder: one stage's own; what an earlier run logged there is removed.
        save_stage: save a hidden Git experiment of this stage at the end, unless DVC runs the
            script: `dvc exp run` saves one itself, and `dvc repro` is not meant to.
    """
    save_experiment = save_stage is not None and DVC_ROOT not in os.environ
    if save_experiment:
        _name_the_committer()
    report.render_html = partial(report.render_html, html_template=PAGE)
    # DVCLive would rewrite dvc.yaml, where plots, metrics and the model are declared by hand.
    live = Live(folder, report="html", dvcyaml=False, save_dvc_exp=save_experiment)
    if save_experiment and live._dvc_repo:
        # DVCLive would record every stage as up to date, also those whose parameters have changed.
        experiments = live._dvc_repo.experiments
        experiments.save = partial(experiments.save, targets=[save_stage])
    # DVC expects this output of the stage even if no image is logged.
    Path(live.plots_dir, "images").mkdir(parents=True, exist_ok=True)
    return live


def open_system_monitor(folder: str) -> Live:
    """Log CPU, memory, disk and GPU use once a second below `folder`.

    They are no output of a stage: two runs never have the same, and would seem to differ.
    """
    # Without an NVIDIA driver DVCLive fails at each sample before it reads CPU and memory.
    monitor_system.GPU_AVAILABLE = _has_nvidia_driver()
    return Live(folder, dvcyaml=False, save_dvc_exp=False, monitor_system=True)


def _has_nvidia_driver() -> bool:
    try:
        monitor_system.nvmlInit()
    except monitor_system.NVMLError:
        return False
    monitor_system.nvmlShutdown()
    return True


def _name_the_committer() -> None:
    """Let Git commit where nobody has told it a name, as in a fresh container."""
    if subprocess.run(["git", "config", "user.email"], capture_output=True).returncode:
        for role in ("AUTHOR", "COMMITTER"):
            os.environ.setdefault(f"GIT_{role}_NAME", getpass.getuser())
            os.environ.setdefault(f"GIT_{role}_EMAIL", f"{getpass.getuser()}@localhost")
