"""Wrong parameters and arguments in the commands that a user types."""

from pathlib import Path

import pytest

from helpers.project import Project, stages_run

BAD = {
    "download.source": (
        "null",
        "found null; allowed with image_folder: a URL, an archive, a folder, a bucket or a list of "
        "URLs",
    ),
    "prepare.image_size": (7, "found 7; allowed: a whole number, 8 to 4,096"),
    "model.backbone": ("ResNet50", "found 'ResNet50'; did you mean 'resnet50'?"),
    "train.learning_rate": ("quickly", "found 'quickly'; allowed: a number, above 0, at most 10"),
    "train.epochs": (0, "found 0; allowed: a whole number, 1 to 1,000,000"),
}
RESULTS = ("data", "models", "dvclive")


@pytest.fixture
def tensorflow_mark(trained_project: Project, tmp_path: Path) -> Path:
    """A file that appears when a command of the project imports TensorFlow or Keras."""
    mark = tmp_path / "imported"
    for name in ("tensorflow", "keras"):
        (tmp_path / "sabotage" / name).mkdir(parents=True)
        (tmp_path / "sabotage" / name / "__init__.py").write_text(
            f"open({str(mark)!r}, 'w').close()\nraise ImportError('sabotaged')\n"
        )
    trained_project.environment["PYTHONPATH"] = str(tmp_path / "sabotage")
    trained_project.run("python", "src/train.py", fails=True)
    assert mark.exists()  # correct parameters import TensorFlow
    mark.unlink()
    trained_project.run("git", "checkout", "--quiet", ".")
    trained_project.run("dvc", "checkout")
    return mark


@pytest.mark.fault(
    "Parameters",
    "`dvc exp run -S` with five wrong parameters, then each script by itself",
    "all reported at once, one line each; exit code 1; no TensorFlow; old results can be restored",
)
def test_wrong_parameters_damage_nothing(
    trained_project: Project, tensorflow_mark: Path, record_property
):
    project = trained_project
    results = project.files(*RESULTS)
    experiments = project.run("dvc", "exp", "list", "--all-commits").stdout
    (experiment,) = project.run("dvc", "exp", "list", "--all-commits", "--name-only").stdout.split()
    expected = "error: " + "\n       ".join(
        f"params.yaml: {name}: {reason}" for name, (_, reason) in BAD.items()
    )

    changes = [part for name, (value, _) in BAD.items() for part in ("-S", f"{name}={value}")]
    done = project.run("dvc", "exp", "run", *changes, fails=True)
    assert expected in done.stderr and "Traceback" not in done.stderr
    left = project.files(*RESULTS)

    for script in ("download", "prepare", "train", "evaluate", "sweep"):
        done = project.run("python", f"src/{script}.py", fails=True)
        assert done.returncode == 1
        assert done.stderr.startswith(expected) and len(done.stderr.splitlines()) == len(BAD)
        assert done.stdout == ""
    assert project.files(*RESULTS) == left
    assert not tensorflow_mark.exists()
    assert project.run("dvc", "exp", "list", "--all-commits").stdout == experiments

    # DVC writes params.yaml twice within a second, often with the same length as its comments are
    # aligned; Git then does not notice what --set-param changed.
    (project.root / "params.yaml").touch()
    project.run("git", "checkout", "--quiet", ".")
    project.run("dvc", "checkout")
    assert project.files(*RESULTS) == results
    assert stages_run(project.run("dvc", "repro").stdout) == []
    project.run("dvc", "exp", "apply", experiment)
    applied = project.files(*RESULTS)
    # The experiment was saved before DVC wrote the .gitignore files.
    assert applied == {path: results[path] for path in results if path in applied}
    assert all(path.endswith(".gitignore") for path in results if path not in applied)
    record_property("injections", 6)


@pytest.mark.fault(
    "Parameters", "`dvc exp run -S` with a misspelt parameter", "refused by DVC, nothing is changed"
)
def test_a_misspelt_parameter_is_refused_by_dvc(trained_project: Project):
    results = trained_project.files(*RESULTS)
    done = trained_project.run("dvc", "exp", "run", "-S", "train.epochz=3", fails=True)
    assert "train.epochz" in done.stderr and "Traceback" not in done.stderr
    assert trained_project.run("git", "status", "--short").stdout == ""
    assert trained_project.files(*RESULTS) == results


@pytest.mark.fault("Parameters", "wrong arguments of a command", "one-line error, exit code 1 or 2")
@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("sweep.py nowhere.yaml", "error: nowhere.yaml: not found in "),
        ("sweep.py sweeps", "found 'sweeps'; allowed: a file whose name ends in .yaml"),
        ("sweep.py sweeps/learning_rate", "allowed: a file whose name ends in .yaml"),
        ("sweep.py --trials 0", "argument --trials: found '0'; allowed: a number above 0"),
        ("sweep.py --trials 1.5", "argument --trials: invalid int value: '1.5'"),
        ("sweep.py --jobs -1", "argument --jobs: found '-1'; allowed: a number above 0"),
        ("sweep.py --timeout nan", "argument --timeout: found 'nan'; allowed: a number above 0"),
        ("sweep.py --trails=3", "error: unrecognized arguments: --trails=3"),
        ("report.py nowhere", "error: nowhere: no experiment or revision of this name"),
        ("report.py HEAD~1000", "error: HEAD~1000: no experiment or revision of this name"),
        ("report.py HEAD^{tree}", "error: HEAD^{tree}: no experiment or revision of this name"),
        ("report.py HEAD:src", "error: HEAD:src: no experiment or revision of this name"),
        ("report.py @{u}", "error: @{u}: no experiment or revision of this name"),
        ("report.py refs/heads", "error: refs/heads: no experiment or revision of this name"),
        ("report.py --top 3", "error: unrecognized arguments: --top"),
        ("predict.py", "error: the following arguments are required: PATH"),
        ("predict.py nowhere", "error: nowhere: no file found"),
        ("predict.py [", "error: [: no file found"),
        ("predict.py params.yaml --top 0", "argument --top: found '0'; allowed: 1 or more"),
        ("predict.py params.yaml --top ²", "argument --top: found '²'; allowed: 1 or more"),
        ("predict.py params.yaml --model nowhere", "error: nowhere not found"),
        ("predict.py params.yaml --model src", "error: src is not a model of this repository"),
        ("predict.py params.yaml --model params.yaml", "error: params.yaml is not a model of this"),
        ("predict.py params.yaml --explain params.yaml", "error: --explain: params.yaml: File exi"),
    ],
)
def test_wrong_arguments(finished: Project, arguments: str, reason: str):
    script, *rest = arguments.split()
    done = finished.run("python", f"src/{script}", *rest, fails=True)
    assert done.returncode in (1, 2) and "Traceback" not in done.stderr
    assert reason in done.stderr.splitlines()[-1]
    assert done.returncode == 2 or len(done.stderr.splitlines()) == 1
    assert done.stdout == ""
