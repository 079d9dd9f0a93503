"""Sample the phases of a `dvc exp run`; Python runs this file at the start of each process.

If BENCHMARK_SAMPLES names a folder, a thread samples the main thread every few milliseconds and, at
the end, writes the seconds of each phase to the folder, as JSON.
"""

import atexit
import json
import os
import sys
import threading
import time
from collections import Counter
from pathlib import Path

INTERVAL = 0.005
# File, function (None: any) and phase; the outermost match on the stack counts.
PHASES = [
    ("subprocess.py", "wait", "a stage"),
    ("tensorflow_setup.py", "<module>", "TensorFlow start-up"),
    ("classifier.py", "build_networks", "build the network"),
    ("prepared.py", "open_splits", "data"),
    ("callback_list.py", "on_epoch_end", "logs and plots"),
    ("trainer.py", "fit", "fit"),
    ("features.py", "fit_on_features", "fit"),
    ("steps.py", "translate", "save the model"),
    ("steps.py", "save", "save the model"),
    ("openvino_file.py", "load_translated", "load the model"),
    ("steps.py", "predict_probabilities", "evaluate"),
    ("steps.py", "check_against_files", "check the model on photos"),
    ("live.py", None, "logs and plots"),
    ("sheets.py", None, "logs and plots"),
    ("metrics.py", None, "evaluate"),
]


def phase_of(frame) -> str:
    stack = []
    while frame:
        code = frame.f_code
        stack.append((code.co_filename.replace("\\", "/").rpartition("/")[2], code.co_name))
        frame = frame.f_back
    for file, function in reversed(stack):
        for known_file, known_function, phase in PHASES:
            if file == known_file and known_function in (None, function):
                return phase
    return "other"


def sample(main: int, seconds: Counter, ended: threading.Event) -> None:
    before = time.perf_counter()
    while not ended.wait(INTERVAL):
        frame = sys._current_frames().get(main)
        now = time.perf_counter()
        seconds[phase_of(frame)] += now - before
        before = now


def start(folder: Path) -> None:
    seconds, ended, begin = Counter(), threading.Event(), time.perf_counter()
    arguments = (threading.main_thread().ident, seconds, ended)
    thread = threading.Thread(target=sample, args=arguments, daemon=True)
    thread.start()

    def finish() -> None:
        ended.set()
        thread.join()
        result = {"seconds": time.perf_counter() - begin, "phases": seconds}
        name = Path(sys.argv[0]).stem if sys.argv else "python"
        (folder / f"{name}-{os.getpid()}.json").write_text(json.dumps(result))

    atexit.register(finish)


if "BENCHMARK_SAMPLES" in os.environ:
    start(Path(os.environ["BENCHMARK_SAMPLES"]))
