"""How a script ends."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import REPOSITORY

SCRIPT = """
import signal

from image_classifier.errors import run


class Closing:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)


def main():
    signal.signal(signal.SIGINT, signal.getsignal(signal.SIGTERM))  # if a shell has it ignored
    Closing()
    print("goes on")


run(main)
"""


@pytest.mark.fault("Process", "Ctrl-C while Python removes an object", "one line, exit code 130")
def test_an_interruption_is_not_lost_where_python_only_reports_errors(tmp_path: Path):
    (tmp_path / "src/image_classifier").mkdir(parents=True)
    errors = "src/image_classifier/errors.py"
    shutil.copy(REPOSITORY / errors, tmp_path / errors)
    (tmp_path / "src/script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, tmp_path / "src/script.py"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (
        128 + signal.SIGINT,
        "",
        "interrupted\n",
    )
