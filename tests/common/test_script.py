"""How a script starts and ends."""

import shutil
import signal
from pathlib import Path

import pytest

from helpers.project import REPOSITORY, run_python

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


@pytest.mark.fault("Process", "Ctrl-C while Python removes an object", "one line, exit code 130")
def test_an_interruption_is_not_lost_where_python_only_reports_errors(tmp_path: Path):
    common = "src/image_classifier/common"
    shutil.copytree(REPOSITORY / common, tmp_path / common)
    (tmp_path / "src/script.py").write_text(SCRIPT)
    done = run_python("src/script.py", folder=tmp_path)
    assert done.returncode == 128 + signal.SIGINT
    assert (done.stdout, done.stderr) == ("", "interrupted\n")
