"""7. `dvc exp run` with nothing changed, compared with three trivial stages and as many files.

python benchmarks/nothing_to_do.py /path/to/cats_and_dogs_filtered.zip
"""

import shutil
from collections import defaultdict
from pathlib import Path
from statistics import median

from measure import (
    make_project,
    median_ratio,
    read_arguments,
    run,
    table,
    temporary_folder,
    write_section,
)

FILES, EMPTY = "three trivial stages, as many files", "three trivial stages, no other files"
STAGES = """stages:
  first: {cmd: mkdir -p data && cp -r FROM TO, outs: [TO]}
  second: {cmd: ls TO > 2.txt, deps: [TO], outs: [2.txt]}
  third: {cmd: cp 2.txt 3.txt, deps: [2.txt], outs: [3.txt]}
"""


def main() -> None:
    arguments = read_arguments(__doc__.splitlines()[0], rounds=7)
    with temporary_folder() as folder:
        quick = {"prepare__image_size": 16, "train__epochs": 1}
        project = make_project(folder / "project", "fashion_mnist", arguments.photos, **quick)
        run(["dvc", "exp", "run"], project)
        projects = {
            EMPTY: make_empty(folder / "empty", project),
            FILES: make_with_files(folder / "files", project),
            "this repository": project,
        }
        for path in projects.values():
            run(["dvc", "exp", "run"], path)
            run(["git", "add", "--all"], path)
            run(["git", "commit", "--quiet", "--message", "Run"], path)
        seconds = defaultdict(list)
        for _ in range(arguments.rounds):
            for name, path in projects.items():
                seconds[name].append(run(["dvc", "exp", "run"], path).seconds)
        images = sum(1 for path in (project / "data/raw").rglob("*") if path.is_file())
        tracked = len(run(["git", "ls-files"], project).output.splitlines())
    rows = [
        [name, f"{median(times):.2f}", f"{median_ratio(times, seconds[FILES]):.2f}"]
        for name, times in seconds.items()
    ]
    write_section(
        "7. Nothing to do",
        [
            *table(["`dvc exp run` with nothing changed", "seconds", "ratio"], rows),
            "",
            f"With {images:,} images in data/raw and {tracked} files in Git; medians of "
            f"{arguments.rounds} rounds, ratios within a round. The second repository is a copy of "
            "this one in which the first of three trivial stages copies the images. According to "
            "a profile, two fifths of the difference are six readings of dvc.yaml and dvc.lock; "
            "the rest is spread over 42 dependencies and outputs, instead of 5, which DVC "
            "compares and adds to Git.",
        ],
    )


def make_with_files(folder: Path, project: Path) -> Path:
    """Make a copy of the project with its files and images, but three trivial stages."""
    run(["git", "clone", "--quiet", str(project), str(folder)], project)
    (folder / "dvc.lock").unlink()
    (folder / "dvc.yaml").write_text(
        STAGES.replace("FROM", str(project / "data/raw")).replace("TO", "data/raw")
    )
    run(["git", "commit", "--quiet", "--all", "--message", "Three trivial stages"], folder)
    return folder


def make_empty(folder: Path, project: Path) -> Path:
    """Make a repository of three trivial stages, with the project's settings of DVC."""
    folder.mkdir()
    run(["git", "init", "--quiet"], folder)
    run(["dvc", "init", "--quiet"], folder)
    shutil.copy(project / ".dvc/config", folder / ".dvc/config")
    (folder / "dvc.yaml").write_text(STAGES.replace("FROM", "dvc.yaml").replace("TO", "1.txt"))
    run(["git", "add", "--all"], folder)
    run(["git", "commit", "--quiet", "--message", "Empty"], folder)
    return folder


if __name__ == "__main__":
    main()
