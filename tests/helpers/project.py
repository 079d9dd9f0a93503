"""Copies of this repository in which tests run commands."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from image_classifier.common.params import AUGMENTATION

REPOSITORY = Path(__file__).resolve().parents[2]
COPIED = [
    ".dvc/config",
    ".dvc/plots",
    ".dvcignore",
    ".gitignore",
    "corrections.csv",
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


def run_python(
    *arguments: str | Path, folder: Path, **environment: str
) -> subprocess.CompletedProcess:
    """Run Python in a folder, with additional environment variables."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
    )


AUGMENTED = {"horizontal_flip": True, **dict.fromkeys(AUGMENTATION[1:], 0.1)}
# Parameters in train.* that have no effect by default.
RECIPE = {
    "optimizer": "adamw",
    "weight_decay": 0.01,
    "label_smoothing": 0.1,
    "class_weights": "balanced",
    "early_stopping": 4,
}
ON_FEATURES = {
    "prepare": {"image_size": 32, "views": 2, **AUGMENTED},
    "model": {"backbone": "efficientnet_lite0"},
}
# What a user may have set for other projects: in ~/.keras/keras.json, and in the environment.
OTHER_KERAS = {
    "floatx": "float16",
    "epsilon": 0.1,
    "backend": "jax",
    "image_data_format": "channels_first",
    "nnx_enabled": True,
}
OTHER_VARIABLES = {
    "KERAS_BACKEND": "jax",
    "KERAS_MAX_EPOCHS": "1",
    "KERAS_MAX_STEPS_PER_EPOCH": "2",
    "KERAS_NNX_ENABLED": "1",
    "TF_USE_LEGACY_KERAS": "1",
    "TF_ENABLE_ONEDNN_OPTS": "0",
    "TF_FUNCTION_JIT_COMPILE_DEFAULT": "1",
    "TF_XLA_FLAGS": "--tf_xla_auto_jit=2 --tf_xla_cpu_global_jit",
    "DVCLIVE_RESUME": "1",
    "DVCLIVE_TEST": "1",
    "MPLBACKEND": "Qt4Agg",  # which matplotlib no longer has
}
ALL_STAGES = ["download", "prepare", "train", "evaluate"]


def layouts(first: str, *others: str) -> pytest.MarkDecorator:
    """Run a test in projects at the "top" of their Git repository or in a "folder" of a larger one.

    In all but the first layout, only the exhaustive tests run it.
    """
    exhaustive = [pytest.param(name, marks=pytest.mark.exhaustive) for name in others]
    return pytest.mark.parametrize("trained_project", [first, *exhaustive], indirect=True)


def stages_run(output: str) -> list[str]:
    """The stages that DVC ran, according to its output."""
    return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")]


def sweep_text(*parameters: str, **settings: object) -> str:
    """A sweep file with these parameters: a grid, unless the settings change that."""
    default = {"metric": "accuracy", "sampler": "grid", "pruner": "none", "trials": 9, "seed": 0}
    lines = [f"{key}: {value}" for key, value in (default | settings).items()]
    return "\n".join([*lines, "parameters:", *(f"  {line}" for line in parameters), ""])


def differing(before: dict[str, object], after: dict[str, object]) -> list[str]:
    """The files that differ, except for measurements of the machine."""
    names = [name for name in before | after if before.get(name) != after.get(name)]
    return [name for name in names if not name.startswith("dvclive/system/")]


def one_error(output: str) -> str:
    """The only error line in an output, which must contain no traceback."""
    assert "Traceback" not in output, output
    (line,) = [line for line in output.splitlines() if line.startswith("error: ")]
    return line


class Project:
    """A copy of this repository, as its own Git repository, in which commands are run."""

    def __init__(self, top: Path, home: Path, prefix: str = "") -> None:
        """
        Args:
            top: the Git repository.
            home: the home folder of all commands.
            prefix: path of the project in the Git repository, ending in "/"; "": at the top.
        """
        self.top, self.prefix = top, prefix
        self.root = top / prefix
        programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        kept = {key: value for key, value in os.environ.items() if key[:4] not in ("DVC_", "GIT_")}
        self.environment = {
            **kept,
            "HOME": str(home),
            "TMPDIR": str(home),  # killed processes leave files there
            "PATH": programs,
            "GIT_AUTHOR_NAME": "Test",
            "GIT_AUTHOR_EMAIL": "test@example.org",
            "GIT_COMMITTER_NAME": "Test",
            "GIT_COMMITTER_EMAIL": "test@example.org",
        }

    def copy(self, top: Path) -> "Project":
        """Copy the Git repository to a folder that does not exist yet; share the home folder."""
        shutil.copytree(self.top, top, symlinks=True)
        return Project(top, Path(self.environment["HOME"]), self.prefix)

    def nest(self, top: Path) -> "Project":
        """Copy the project into a folder of a new, larger Git repository with other files."""
        nested = Project(top, Path(self.environment["HOME"]), prefix="team/pets, all/")
        shutil.copytree(
            self.root, nested.root, symlinks=True, ignore=shutil.ignore_patterns(".git")
        )
        for name in ("README.md", "src/train.py", "team/notes ü.txt", "team/pets/params.yaml"):
            (top / name).parent.mkdir(parents=True, exist_ok=True)
            (top / name).write_text("of another project\n", encoding="utf-8")
        # As in other collections of projects; it hides the .gitignore files of data/ and models/.
        (top / ".gitignore").write_text("data/\nmodels/\n", encoding="utf-8")
        nested.run("git", "init", "--quiet", "--initial-branch", "main", str(top))
        nested.commit()
        return nested

    def run(self, *command: str, fails: bool = False) -> subprocess.CompletedProcess:
        """Run a command in the project's root; it must fail if `fails`, else succeed."""
        done = subprocess.run(
            command, cwd=self.root, env=self.environment, capture_output=True, text=True
        )
        output = f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
        assert (done.returncode != 0) == fails, output
        return done

    def run_during_experiment(self, script: str) -> None:
        """Run a script while DVC's lock is held; it must load neither TensorFlow nor matplotlib."""
        code = (
            "import runpy, sys\n"
            "from dvc.repo import Repo\n"
            "with Repo().lock:\n"  # as `dvc exp run` holds it
            f"    sys.argv = [{script!r}]; sys.path.insert(0, 'src')\n"
            f"    runpy.run_path({script!r}, run_name='__main__')\n"
            "assert 'tensorflow' not in sys.modules and 'matplotlib' not in sys.modules\n"
        )
        self.run("python", "-c", code)

    def experiment(self, *changes: str) -> list[str]:
        """Run an experiment with changed parameters; returns the stages that ran."""
        options = [part for change in changes for part in ("-S", change)]
        return stages_run(self.run("dvc", "exp", "run", *options).stdout)

    def set_params(self, changes: dict[str, dict[str, object]]) -> None:
        """Change values in params.yaml."""
        yaml, path = YAML(), self.root / "params.yaml"
        params = yaml.load(path)
        for section, values in changes.items():
            params[section].update(values)
        yaml.dump(params, path)

    def error(self, *command: str, code: int = 1) -> str:
        """Run a command that must fail with this exit code; returns its error, the last line."""
        done = self.run(*command, fails=True)
        line = one_error(done.stderr)
        assert (done.returncode, done.stderr.splitlines()[-1]) == (code, line)
        return line

    def download(
        self, source: object, fails: bool = False, **params: object
    ) -> subprocess.CompletedProcess:
        """Run the stage download with a source and optionally other parameters."""
        self.set_params({"download": {"source": str(source), **params}})
        return self.run("python", "src/download.py", fails=fails)

    def commit(self) -> None:
        self.run("git", "add", "--all")
        self.run("git", "commit", "--quiet", "--message", "Test")

    def experiments(self) -> dict[str, dict]:
        """Revision -> parameters and metrics of the hidden experiments, from `dvc exp show`.

        Fails if a commit cannot be read or lacks metrics.
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

    def experiment_commits(self) -> dict[str, str]:
        """Name -> revision of the hidden experiments."""
        listed = self.run("git", "for-each-ref", "--format=%(refname) %(objectname)", "refs/exps")
        found = re.findall("refs/exps/[0-9a-f]{2}/[^/]+/(.+) (.+)", listed.stdout)
        return dict(found)

    def check_same(self, *revisions: str) -> None:
        """Check that two revisions differ only in measurements of the machine."""
        changed = self.run("git", "diff", "--name-only", *revisions).stdout.splitlines()
        assert all("dvclive/system/" in path for path in changed), changed

    def check_other_files(self, *revisions: str) -> None:
        """Check that revisions differ from HEAD only in files of the project."""
        for revision in revisions:
            changed = self.run("git", "diff", "--name-only", "-z", "HEAD", revision).stdout
            paths = changed.split("\0")[:-1]
            assert [path for path in paths if not path.startswith(self.prefix)] == []

    def write_sweep(self, *parameters: str, **settings: object) -> None:
        """Write and commit the sweep file sweeps/quick.yaml: see `sweep_text`."""
        (self.root / "sweeps/quick.yaml").write_text(sweep_text(*parameters, **settings))
        self.commit()

    def trials(self, sweep: str = "quick") -> list[dict[str, str]]:
        """The rows of a sweep's trials.csv."""
        return self.rows(f"sweeps/{sweep}/trials.csv")

    def rows(self, path: str) -> list[dict[str, str]]:
        """The rows of a table, .csv or .tsv."""
        with (self.root / path).open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file, delimiter="\t" if path.endswith(".tsv") else ","))

    def unreadable(self) -> dict[str, str]:
        """Path -> reason of the files that the stage download left out."""
        return {row["path"]: row["reason"] for row in self.rows("data/unreadable.csv")}

    def splits(self) -> dict[str, str]:
        """Path -> split of the images."""
        return {row["path"]: row["split"] for row in self.rows("data/prepared/images.csv")}

    def files(self, *folders: str) -> dict[str, bytes]:
        """Path -> content of all files below some folders."""
        return {
            path.relative_to(self.root).as_posix(): path.read_bytes()
            for folder in folders
            for path in sorted((self.root / folder).rglob("*"))
            if path.is_file()
        }
