"""Functions for all benchmarks: projects, commands with their time and memory, and tables."""

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "benchmarks/README.md"
sys.path.insert(0, str(REPOSITORY / "src"))


class Finished(NamedTuple):
    """A command that succeeded."""

    seconds: float
    peak_bytes: int  # the largest resident memory of its processes
    output: str


def read_arguments(description: str, rounds: int | None) -> argparse.Namespace:
    """Read the path of the photos and the number of rounds (None: no such option)."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "photos", type=Path, help="a folder or an archive with a folder of images for each class"
    )
    if rounds:
        parser.add_argument("--rounds", type=int, default=rounds)
    arguments = parser.parse_args()
    if not arguments.photos.exists():
        parser.error(f"{arguments.photos}: not found; name a folder or an archive of images")
    arguments.photos = arguments.photos.resolve()
    return arguments


def run(command: Sequence[str], folder: Path, **environment: str) -> Finished:
    """Run a command; if it fails, show its output.

    Raises:
        SystemExit: if it fails.
    """
    with tempfile.TemporaryFile("w+") as log:
        start = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=folder, env=make_environment() | environment, stdout=log, stderr=log
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        log.seek(0)
        output = log.read()
    if process.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{output}")
    unit = 1 if sys.platform == "darwin" else 1024
    return Finished(seconds, usage.ru_maxrss * unit, output)


def make_environment() -> dict[str, str]:
    """Put this interpreter's programs first, and add an identity for the commits that DVC makes."""
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    identity = {
        f"GIT_{role}_{key}": value
        for role in ("AUTHOR", "COMMITTER")
        for key, value in (("NAME", "benchmark"), ("EMAIL", "benchmark@localhost"))
    }
    return os.environ | {"PATH": programs} | identity


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder that is removed at the end."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        yield Path(folder)


@contextmanager
def workers(count: int) -> Iterator[str]:
    """Start a Ray cluster with a head and a worker on each of `count` cores; yield its address.

    With a `count` of 0, start no cluster and yield an empty address.
    """
    if not count:
        yield ""
        return
    from ray.cluster_utils import Cluster

    cores = os.sched_getaffinity(0)
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as temporary:
        # With `temp_dir` Ray would write the address to /tmp/ray, which may not exist.
        os.environ["RAY_TMPDIR"] = temporary
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        try:
            for core in sorted(cores)[:count]:
                os.sched_setaffinity(0, {core})  # child processes inherit it
                cluster.add_node(num_cpus=1)
                os.sched_setaffinity(0, cores)
            yield cluster.address
        finally:
            os.sched_setaffinity(0, cores)
            cluster.shutdown()


def clone(folder: Path, revision: str = "HEAD") -> None:
    """Clone a revision of this project into a new folder, as a Git repository of its own."""
    show = ["git", "rev-parse", "--show-toplevel", "--show-prefix"]
    top, prefix = run(show, REPOSITORY).output.splitlines()
    run(["git", "clone", "--quiet", top, str(folder)], REPOSITORY)
    commit = run(["git", "rev-parse", revision], REPOSITORY).output.strip()
    if prefix:  # in a folder of a larger repository
        command = ["git", "commit-tree", "-m", "Project", f"{commit}:{prefix}"]
        commit = run(command, folder).output.strip()
    run(["git", "reset", "--quiet", "--hard", commit], folder)


# Changes of presets/cats_and_dogs.yaml: the network whose speed most sections report.
LITE0 = {
    "model__backbone": "efficientnet_lite0",
    "prepare__image_size": 180,
    "prepare__rotation": 0.2,
}


def make_project(
    folder: Path, preset: str, photos: Path, revision: str = "HEAD", **changes: object
) -> Path:
    """Clone this project into a new folder, as a user would, and choose parameters.

    Args:
        folder: must not exist yet.
        preset: name of a file in presets/.
        photos: path of the images.
        revision: of this repository.
        changes: values of parameters, such as `model__weights="random"`.
    """
    clone(folder, revision)
    shutil.copy(folder / "presets" / f"{preset}.yaml", folder / "params.yaml")
    values = {"download.dataset": "image_folder", "download.source": photos}
    values |= {name.replace("__", "."): value for name, value in changes.items()}
    from dvc.utils.hydra import apply_overrides

    apply_overrides(folder / "params.yaml", [f"{name}={value}" for name, value in values.items()])
    run(["git", "commit", "--all", "--quiet", "--message", "Parameters"], folder)
    return folder


def median_ratio(values: Sequence[float], references: Sequence[float]) -> float:
    """The median of the ratios within each round; both arguments have a value for each round."""
    return median([value / other for value, other in zip(values, references, strict=True)])


def write_section(title: str, lines: Sequence[str]) -> None:
    """Print a section of benchmarks/README.md, and replace its earlier version there."""
    section = "\n".join([f"## {title}", "", *wrap(lines), "", f"*{describe_machine()}*", ""])
    print(section, flush=True)
    head, *sections = RESULTS.read_text(encoding="utf-8").split("\n## ")
    by_title = {text.partition("\n")[0]: text for text in sections}
    by_title[title] = section.removeprefix("## ")
    ordered = sorted(by_title.items(), key=lambda item: int(re.match(r"\d+", item[0])[0]))
    text = "\n## ".join([head, *(text.rstrip("\n") + "\n" for _, text in ordered)])
    RESULTS.write_text(text, encoding="utf-8")


def wrap(lines: Iterable[str]) -> Iterator[str]:
    """Wrap paragraphs and items of lists, but not rows of tables."""
    for line in lines:
        indent = "  " if line.startswith("- ") else ""
        wrapped = textwrap.fill(
            line, 110, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
        )
        yield line if line.startswith("|") else wrapped


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """The lines of a Markdown table; numbers are aligned to the right."""
    aligned = ["---"] + ["---:"] * (len(header) - 1)
    return [f"| {' | '.join(map(str, row))} |" for row in (header, aligned, *rows)]


def describe_machine() -> str:
    """Date, processor, memory and versions."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [line for line in cpuinfo.read_text().splitlines() if "model name" in line]
        name = models[0].partition(": ")[2] if models else name
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    packages = ", ".join(f"{name} {version(name)}" for name in ("tensorflow", "openvino", "dvc"))
    return (
        f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores of {name}, {memory:.0f} GiB, "
        f"Python {platform.python_version()}, {packages}"
    )
