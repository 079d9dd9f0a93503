"""A team's storage: clones share a bare Git repository, and a bucket or a folder for data."""

import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.machines import Bucket
from helpers.made_experiments import CACHE, cache_content, save_experiment
from helpers.project import Project, stages_run
from helpers.running import Run

MODEL = "models/model.keras"
TRAINING = ["train", "evaluate"]


class Team:
    """A repository that the members clone, and storage for DVC's files."""

    def __init__(self, folder: Path, finished: Project, storage: str) -> None:
        self.folder = folder
        self.origin = folder / "origin.git"
        self.first = self._member(shutil.copytree(finished.root, folder / "first", symlinks=True))
        self.first.run("dvc", "remote", "add", "--default", "storage", storage)
        self.first.commit()
        self.first.run(
            "git", "init", "--quiet", "--bare", "--initial-branch=main", str(self.origin)
        )
        self.first.run("git", "remote", "add", "origin", str(self.origin))
        self.first.run("git", "push", "--quiet", "--set-upstream", "origin", "main")
        self.first.run("dvc", "push")

    def clone(self, name: str) -> Project:
        """Add a member with their own home, clone and empty cache."""
        self.first.run("git", "clone", "--quiet", str(self.origin), str(self.folder / name))
        return self._member(self.folder / name)

    def members(self) -> list[Project]:
        """Two members who have all data."""
        members = [self.clone(name) for name in ("one", "two")]
        for member in members:
            member.run("dvc", "pull")
        return members

    def reader(self) -> Project:
        """A member who has all experiments."""
        reader = self.clone("reader")
        reader.run("dvc", "exp", "pull", "origin")
        return reader

    def _member(self, root: Path) -> Project:
        home = self.folder / f"home of {root.name}"
        home.mkdir()
        return Project(root, home)


@pytest.fixture
def team(finished: Project, bucket: Bucket, tmp_path: Path) -> Team:
    """A team whose storage is a bucket."""
    return Team(tmp_path, finished, f"s3://{bucket.name}/project")


def save_variant(project: Project, name: str, learning_rate: float, model: bytes) -> None:
    """Save an experiment with another parameter and model than the current commit."""
    known = cache_content(project.root / CACHE, model)
    lock = (project.root / "dvc.lock").read_text()
    earlier = re.search(rf"path: {MODEL}\n.*\n *md5: (\w+)", lock)[1]
    lock = lock.replace(earlier, known).replace(str((project.root / MODEL).stat().st_size), "9")
    params = (project.root / "params.yaml").read_text()
    params = re.sub(r"learning_rate: \S+", f"learning_rate: {learning_rate}", params)
    save_experiment(project, name, {"dvc.lock": lock, "params.yaml": params})


def applied_model(project: Project, experiment: str) -> bytes:
    """Apply an experiment from the cache alone, and return its model."""
    project.run("git", "reset", "--hard", "--quiet")
    project.run("dvc", "exp", "apply", experiment)
    return (project.root / MODEL).read_bytes()


def continue_elsewhere(team: Team) -> None:
    """Run an experiment in one clone, and continue from it in another."""
    author = team.first
    author.run("dvc", "exp", "run", "--name", "higher", "-S", "train.learning_rate=0.01")
    author.run("dvc", "exp", "push", "origin")
    outputs = ("data/raw", "data/prepared", "models", "dvclive")

    colleague = team.clone("colleague")
    colleague.run("dvc", "exp", "pull", "origin")
    colleague.run("dvc", "exp", "apply", "higher")
    colleague.run("dvc", "pull")
    assert colleague.files(*outputs) == author.files(*outputs)
    assert "up to date" in colleague.run("dvc", "status").stdout
    (shown,) = colleague.experiments().values()
    (expected,) = author.experiments().values()
    assert shown["metrics"] == expected["metrics"]
    assert colleague.experiment("train.learning_rate=0.02") == TRAINING


@pytest.mark.exhaustive
def test_a_colleague_continues_from_a_shared_folder(finished: Project, tmp_path: Path):
    continue_elsewhere(Team(tmp_path, finished, str(tmp_path / "shared folder")))


@pytest.mark.slow
def test_a_colleague_continues_from_a_bucket_without_computing_features(
    make_project: Callable[[Path], Project], bucket: Bucket, tmp_path: Path
):
    (tmp_path / "source").mkdir()
    project = make_project(tmp_path / "source")
    project.set_params({"prepare": {"image_size": 32}, "model": {"backbone": "efficientnet_lite0"}})
    project.run("dvc", "exp", "run")
    project.commit()
    continue_elsewhere(Team(tmp_path, project, f"s3://{bucket.name}/project"))


@pytest.mark.slow
def test_two_members_who_push_at_once_lose_nothing(team: Team):
    members = team.members()
    for number, member in enumerate(members):
        save_variant(member, f"mine-{number}", 0.1 + number, b"a model %d" % number)
        save_variant(member, "the-same", 0.5, b"its model")
    push_at_once(members)

    reader = team.reader()
    for number in range(2):
        assert applied_model(reader, f"mine-{number}") == b"a model %d" % number
    assert applied_model(reader, "the-same") == b"its model"


@pytest.mark.exhaustive
def test_two_members_who_run_and_push_at_once_lose_nothing(team: Team):
    members = team.members()
    for number, member in enumerate(members):
        values = ("-S", f"train.learning_rate=0.0{number + 1}")
        done = member.run("dvc", "exp", "run", "--name", f"mine-{number}", *values)
        assert stages_run(done.stdout) == TRAINING
    push_at_once(members)

    reader = team.reader()
    for number, member in enumerate(members):
        applied_model(reader, f"mine-{number}")
        assert reader.files("models", "dvclive") == member.files("models", "dvclive")


def push_at_once(members: list[Project]) -> None:
    """Run `dvc push` and `dvc exp push` of all members at the same moment; all must succeed.

    If two write the same reference in the same instant, Git refuses one. Then push again, as
    docs/cluster.md says.
    """
    for command in (("dvc", "push"), ("dvc", "exp", "push", "origin")):
        runs = [Run(member, command) for member in members]
        for run in runs:
            run.seconds_until(None)
        for run, member in zip(runs, members, strict=True):
            if run.process.returncode:
                assert re.search("Git failed to push some refs|/the-same.lock'", run.output)
                member.run(*command)


@pytest.mark.exhaustive
def test_two_experiments_with_the_same_name_are_both_kept(team: Team):
    members = team.members()
    for number, member in enumerate(members):
        save_variant(member, "name", 0.1 + number, b"a model %d" % number)
    members[0].run("dvc", "exp", "push", "origin")
    for command in ("push", "pull"):
        done = members[1].run("dvc", "exp", command, "origin")
        assert "diverged from remote experiment with the same name" in done.stdout + done.stderr
    assert applied_model(members[1], "name") == b"a model 1"

    members[1].run("git", "reset", "--hard", "--quiet")
    members[1].run("dvc", "exp", "rename", "name", "name-of-two")
    members[1].run("dvc", "exp", "push", "origin", "name-of-two")
    members[1].run("dvc", "exp", "pull", "origin")
    for reader in (members[1], team.clone("reader")):
        reader.run("dvc", "exp", "pull", "origin")
        assert applied_model(reader, "name") == b"a model 0"
        assert applied_model(reader, "name-of-two") == b"a model 1"


@pytest.mark.exhaustive
def test_pushing_again_completes_a_killed_push(team: Team):
    save_variant(team.first, "killed", 0.1, b"its model")
    listing = ("git", "-C", str(team.origin), "for-each-ref", "refs/exps")
    with Run(team.first, ("dvc", "exp", "push", "origin")) as push:
        push.wait_for(lambda: team.first.run(*listing).stdout)  # Git's references are pushed first
        push.signal(signal.SIGKILL, to_all=True)

    early = team.clone("early")
    assert "Missing cache files" in early.run("dvc", "exp", "pull", "origin").stderr
    team.first.run("dvc", "exp", "push", "origin")
    for reader in (early, team.clone("late")):
        reader.run("dvc", "exp", "pull", "origin")
        assert applied_model(reader, "killed") == b"its model"


@pytest.mark.exhaustive
def test_trials_of_a_sweep_are_shared_like_other_experiments(team: Team):
    team.first.run("python", "src/sweep.py", "--trials", "2")
    team.first.run("dvc", "exp", "push", "origin")
    colleague = team.clone("colleague")
    names = colleague.run("dvc", "exp", "list", "--name-only", "origin").stdout.split()
    assert len(names) == 2
    colleague.run("dvc", "exp", "pull", "origin")
    for name in names:
        assert applied_model(colleague, name) == applied_model(team.first, name)
    colleague.run("dvc", "pull")
    assert colleague.experiment("train.dropout=0.25") == TRAINING
