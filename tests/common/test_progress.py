"""Progress bars in a terminal, and lines elsewhere."""

import os
import shutil
import sys
from pathlib import Path

import pytest

from helpers.project import REPOSITORY, run_python
from helpers.terminal import run_in_terminal, screen
from image_classifier.common import progress

SCRIPT = """
import signal
import sys

from image_classifier.common.errors import InputError
from image_classifier.common.progress import progress_bar
from image_classifier.common.script import run


def main():
    signal.signal(signal.SIGINT, signal.getsignal(signal.SIGTERM))  # if a shell has it ignored
    bar = progress_bar("copying", 4)
    bar.update(2)
    bar.refresh()
    if "signal" in sys.argv:
        signal.raise_signal(signal.SIGINT)
    if "error" in sys.argv:
        raise InputError("the disk is gone")
    bar.close()
    print("4 images")


run(main)
"""


@pytest.mark.parametrize(
    ("end", "code", "last"),
    [("", 0, "4 images"), ("signal", 130, "interrupted"), ("error", 1, "error: the disk is gone")],
)
def test_a_bar_leaves_only_the_last_line_on_the_screen(
    tmp_path: Path, end: str, code: int, last: str
):
    common = "src/image_classifier/common"
    shutil.copytree(REPOSITORY / common, tmp_path / common)
    (tmp_path / "src/script.py").write_text(SCRIPT)
    command = (sys.executable, "src/script.py", end)
    found, written = run_in_terminal(command, tmp_path, dict(os.environ))
    assert "copying:  50%|" in written and "2/4" in written
    assert (found, screen(written)) == (code, [last, ""])


def test_a_log_file_has_a_line_a_minute(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
):
    now = 1000.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with progress.progress_bar("preparing images", 3000, initial=1000) as images:
        for _ in range(5):
            now += 25
            images.update(100)
    with progress.progress_bar("downloading", None, "B") as download:
        now += 61
        download.update(2_000_000)
    assert capfd.readouterr().err.splitlines() == [
        "preparing images: 1,300 of 3,000 images, 75 s",
        "downloading: 2.00MB, 61 s",
    ]


def test_nothing_is_printed_of_a_short_step(tmp_path: Path):
    code = (
        "from image_classifier.common.progress import track\n"
        "print(list(track('abc', 'reading', 3)))"
    )
    done = run_python("-c", code, folder=tmp_path, PYTHONPATH=str(REPOSITORY / "src"))
    assert (done.stdout, done.stderr) == ("['a', 'b', 'c']\n", "")
