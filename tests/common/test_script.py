"""Start and end of a script."""

import shutil
import signal
from pathlib import Path

import pytest

from helpers.project import REPOSITORY, Project, run_python

SCRIPT = """
import signal

from image_classifier.common.script import run


class Closing:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)


def main():
    signal.signal(signal.SIGINT, signal.getsignal(signal.SIGTERM))  # if a shell has it ignored
    Closing()
    print("goes on")


run(main)
"""


CAUSES_WARNINGS = """
from image_classifier.common.script import run

import library


def main():
    library.warn(stacklevel=1)
    print("goes on")
    library.warn(stacklevel=2)


run(main)
"""
LIBRARY = """
import warnings


def warn(stacklevel):
    warnings.warn("old", DeprecationWarning, stacklevel)
"""


@pytest.mark.fault(
    "Process", "Ctrl-C while Python removes an object", "one-line message, exit code 130"
)
def test_an_interruption_is_not_lost_in_code_that_ignores_errors(tmp_path: Path):
    common = "src/image_classifier/common"
    shutil.copytree(REPOSITORY / common, tmp_path / common)
    (tmp_path / "src/script.py").write_text(SCRIPT)
    done = run_python("src/script.py", folder=tmp_path)
    assert done.returncode == 128 + signal.SIGINT
    assert (done.stdout, done.stderr) == ("", "interrupted\n")


@pytest.mark.parametrize("setting", ["error", "error::DeprecationWarning"])
def test_only_warnings_of_this_repository_can_be_errors(tmp_path: Path, setting: str):
    common = "src/image_classifier/common"
    shutil.copytree(REPOSITORY / common, tmp_path / common)
    (tmp_path / "src/script.py").write_text(CAUSES_WARNINGS)
    (tmp_path / "src/library.py").write_text(LIBRARY)
    done = run_python("src/script.py", folder=tmp_path, PYTHONWARNINGS=setting)
    assert (done.returncode, done.stdout) == (1, "goes on\n")
    assert done.stderr.endswith("\nDeprecationWarning: old\n")


@pytest.mark.parametrize("stage", ["download", "prepare", "train", "evaluate"])
def test_stages_explain_themselves_and_take_no_arguments(project: Project, stage: str):
    before = project.files("data", "dvclive")
    explained = project.run("python", f"src/{stage}.py", "--help").stdout
    assert "params.yaml" in explained
    refused = project.run("python", f"src/{stage}.py", "--epochs=3", fails=True)
    assert refused.returncode == 2 and "--epochs=3" in refused.stderr
    assert project.files("data", "dvclive") == before
