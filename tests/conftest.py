"""What tests share: small pictures, copies of this repository, and commands run in them."""

import csv
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML

from fault_table import pytest_addoption, pytest_configure, pytest_runtest_makereport  # noqa: F401
from machines import bucket, machines  # noqa: F401

REPOSITORY = Path(__file__).resolve().parents[1]
COPIED = [
    ".dvc/config",
    ".dvc/plots",
    ".dvcignore",
    ".gitignore",
    "data/.gitignore",
    "dvc.yaml",
    "models/.gitignore",
    "params.yaml",
    "src",
    "sweeps/learning_rate.yaml",
]
# Small enough for a test, large enough that every split has every class.
QUICK = {
    "download": {"dataset": "image_folder"},
    "prepare": {"image_size": 16, "color_mode": "rgb"},
    "model": {"conv1_filters": 8, "conv2_filters": 8, "dense_units": 16},
    "train": {"learning_rate": 0.005, "batch_size": 4, "epochs": 2, "log_images": 6},
    "evaluate": {"log_images": 6, "check_images": 8},
}


def write_picture(path: Path, color: tuple[int, int, int], seed: int, size: int = 24) -> None:
    """Write a noisy picture of one colour; each seed gives another one."""
    noise = np.random.default_rng(seed).integers(-40, 40, (size, size, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((np.array(color) + noise).clip(0, 255).astype(np.uint8)).save(path)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders "blue", "green" and "red" with 30 pictures each."""
    root = tmp_path_factory.mktemp("pictures")
    colors = {"blue": (60, 60, 200), "green": (60, 200, 60), "red": (200, 60, 60)}
    for number, (name, color) in enumerate(colors.items()):
        for index in range(30):
            write_picture(root / name / f"{index:02}.png", color, seed=100 * number + index)
    return root


@contextmanager
def serve_folder(folder: Path) -> Iterator[str]:
    """Serve the files of a folder on 127.0.0.1; gives the address of the folder."""
    handler = partial(SimpleHTTPRequestHandler, directory=folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def stages_run(output: str) -> list[str]:
    """The stages that DVC says it ran."""
    return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")]


class Project:
    """A copy of this repository in a Git repository of its own, and commands run there."""

    def __init__(self, root: Path, home: Path) -> None:
        self.root = root
        programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        kept = {key: value for key, value in os.environ.items() if key[:4] not in ("DVC_", "GIT_")}
        self.environment = {
            **kept,
            "HOME": str(home),
            "TMPDIR": str(home),  # where those that are killed leave something
            "PATH": programs,
            "GIT_AUTHOR_NAME": "Test",
            "GIT_AUTHOR_EMAIL": "test@example.org",
            "GIT_COMMITTER_NAME": "Test",
            "GIT_COMMITTER_EMAIL": "test@example.org",
        }

    def run(self, *command: str, fails: bool = False) -> subprocess.CompletedProcess:
        """Run a command at the top of the project; `fails` says how it must end."""
        done = subprocess.run(
            command, cwd=self.root, env=self.environment, capture_output=True, text=True
        )
        output = f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
        assert (done.returncode != 0) == fails, output
        return done

    def set_params(self, changes: dict[str, dict[str, object]]) -> None:
        """Change values in params.yaml."""
        yaml, path = YAML(), self.root / "params.yaml"
        params = yaml.load(path)
        for section, values in changes.items():
            params[section].update(values)
        yaml.dump(params, path)

    def commit(self) -> None:
        self.run("git", "add", "--all")
        self.run("git", "commit", "--quiet", "--message", "Test")

    def experiments(self) -> dict[str, dict]:
        """Revision -> parameters and metrics of the hidden experiments, as `dvc exp show` has them.

        A commit that cannot be read, or that misses metrics, is a failure.
        """
        shown = json.loads(self.run("dvc", "exp", "show", "--json").stdout)
        revisions = [
            revision
            for commit in shown
            for experiment in commit["experiments"] or []
            for revision in experiment["revs"]
        ]
        for revision in [*shown, *revisions]:
            assert not revision.get("error"), revision
            for metrics in revision["data"]["metrics"].values():
                assert not metrics.get("error"), revision
        return {revision["rev"]: revision["data"] for revision in revisions}

    def write_search(self, text: str) -> None:
        """Commit a search, sweeps/quick.yaml."""
        (self.root / "sweeps/quick.yaml").write_text(text)
        self.commit()

    def trials(self, search: str = "quick") -> list[dict[str, str]]:
        """What a search has written of its trials."""
        with (self.root / f"sweeps/{search}/trials.csv").open() as file:
            return list(csv.DictReader(file))

    def files(self, *folders: str) -> dict[str, bytes]:
        """The contents of all files below some folders."""
        return {
            path.relative_to(self.root).as_posix(): path.read_bytes()
            for folder in folders
            for path in sorted((self.root / folder).rglob("*"))
            if path.is_file()
        }


@pytest.fixture(scope="session")
def make_project(pictures: Path) -> Callable[[Path], Project]:
    """Make a project in an existing empty folder, with quick parameters, committed."""

    def make(folder: Path) -> Project:
        root, home = folder / "a path, with spaces", folder / "home"
        home.mkdir()
        for name in COPIED:
            source, target = REPOSITORY / name, root / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, target)
        project = Project(root, home)
        project.set_params(QUICK)
        project.set_params({"download": {"source": str(pictures)}})
        project.run("git", "init", "--quiet", "--initial-branch", "main")
        project.commit()
        return project

    return make


@pytest.fixture
def project(make_project: Callable[[Path], Project], tmp_path: Path) -> Project:
    """A project of the test's own, in which nothing has run yet."""
    return make_project(tmp_path)


@pytest.fixture(scope="session")
def finished(
    make_project: Callable[[Path], Project], tmp_path_factory: pytest.TempPathFactory
) -> Project:
    """A project whose default experiment has run and is committed, to be copied."""
    project = make_project(tmp_path_factory.mktemp("finished"))
    done = project.run("dvc", "exp", "run")
    assert stages_run(done.stdout) == ["download", "prepare", "train", "evaluate"]
    project.commit()
    return project


@pytest.fixture
def trained_project(finished: Project, tmp_path: Path) -> Project:
    """A copy of it, of the test's own."""
    root = shutil.copytree(finished.root, tmp_path / "a path, with spaces", symlinks=True)
    return Project(root, Path(finished.environment["HOME"]))
