"""The page that compares experiments: its data, its size, and the command that writes it."""

import json

import pytest

from helpers.made_experiments import data_of, image_bytes, result_files, save_experiment
from helpers.project import Project
from image_classifier.comparison.page import compare
from image_classifier.experiments.store import find_experiments
from image_classifier.pages.templates import to_json

RIGHT, WRONG = ("a", "cat", "cat", 0.9), ("a", "cat", "dog", 0.6)


pytestmark = pytest.mark.usefixtures("inside_project")


def save(project: Project, name: str, predicted: str, **changes: object) -> None:
    """Save an experiment that predicts cat, dog or elk (c, d or e) for images of three cats."""
    classes = {"c": "cat", "d": "dog", "e": "elk"}
    rows = [
        (f"cat/{number}.png", "cat", classes[letter], 0.75)
        for number, letter in enumerate(predicted)
    ]
    images = changes.pop("images", None)
    files, outputs = result_files({"train": {"dropout": 0.2, "seed": 0, **changes}}, rows)
    if images is None:
        images = {row[0]: image_bytes(number) for number, row in enumerate(rows)}
    save_experiment(project, name, files, {**outputs, "data/raw": images}, time=len(name))


def compared(*names: str, max_bytes: int = 1_000_000) -> dict:
    comparison = compare(find_experiments(names), max_bytes)
    return json.loads(to_json(comparison))


def test_the_command_writes_one_page_of_all_experiments(project: Project):
    save(project, "one", "ccd")
    save(project, "other", "ccc", dropout=0.5)
    done = project.run("python", "src/report.py")
    page = project.root / "experiments.html"
    assert done.stdout.startswith(f"{page}: 2 experiments, ")
    data = data_of(page)
    assert [experiment["name"] for experiment in data["experiments"]] == ["one", "other"]
    assert [experiment["problems"] for experiment in data["experiments"]] == [[], []]
    assert "experiments.html" not in project.run("git", "status", "--short").stdout
    text = page.read_text(encoding="utf-8")
    assert "<script src" not in text and '<link rel="stylesheet' not in text

    project.run("python", "src/report.py", "other", "--output", "data/only one.html")
    assert len(data_of(project.root / "data/only one.html")["experiments"]) == 1


def test_only_the_best_of_many_experiments_are_shown(project: Project):
    for name, predicted in {"worst": "ddd", "second": "ccd", "third": "cdd", "best": "ccc"}.items():
        save(project, name, predicted)
    save_experiment(project, "without-metrics", {})
    done = project.run("python", "src/report.py", "--best", "2")
    assert ": the best 2 of 5 experiments (--best), " in done.stdout
    data = data_of(project.root / "experiments.html")
    assert {experiment["name"] for experiment in data["experiments"]} == {"best", "second"}
    assert data["found"] == 5

    project.run("python", "src/report.py", "--best", "2", "worst", "third", "best")
    data = data_of(project.root / "experiments.html")
    assert len(data["experiments"]) == 3  # all named experiments

    assert "above 0" in project.run("python", "src/report.py", "--best", "0", fails=True).stderr


def test_wrong_arguments_give_a_one_line_error_and_keep_the_page(project: Project):
    (project.root / "experiments.html").write_text("earlier")
    done = project.run("python", "src/report.py", fails=True)
    assert done.stderr.startswith("error: no experiments of the current commit")
    save(project, "one", "ccd")
    (line,) = project.run("python", "src/report.py", "ome", fails=True).stderr.splitlines()
    assert line == "error: ome: no experiment or revision of this name; did you mean 'one'?"
    too_long = f"{'page' * 100}.html"
    for output in ("missing/page.html", "params.yaml/page.html", too_long, "data", "/"):
        line = project.error("python", "src/report.py", "--output", output)
        assert line.startswith(f"error: --output: {project.root / output} cannot be written: ")
    assert (project.root / "experiments.html").read_text() == "earlier"


def test_it_runs_during_an_experiment_and_without_tensorflow(project: Project):
    save(project, "one", "ccd")
    project.run_during_experiment("src/report.py")
    assert (project.root / "experiments.html").exists()


def test_parameters_that_differ_and_metrics_with_their_best(project: Project):
    save(project, "one", "ccd", dropout=0.1)
    save(project, "other", "ccc", dropout=0.5, stop_after=3)
    data = compared()
    params = {param["name"]: param for param in data["params"]}
    dropout = {"name": "train.dropout", "differs": True, "values": [0.1, 0.5]}
    assert params["train.dropout"] == dropout
    assert params["train.stop_after"]["values"] == [None, 3]
    assert not params["train.seed"]["differs"]
    metrics = {metric["name"]: metric for metric in data["metrics"]}
    assert metrics["test.accuracy"]["values"] == [pytest.approx(2 / 3), 1]
    better = {name: metric["better"] for name, metric in metrics.items()}
    assert better["test.accuracy"] == better["best.eval.accuracy"] == "larger"
    assert better["test.loss"] == better["test.calibration_error"] == "smaller"
    assert better["best.epoch"] is None


def test_the_most_important_metrics_come_first(project: Project):
    save(project, "one", "ccd")
    assert [metric["name"] for metric in compared()["metrics"]] == [
        *("test.accuracy", "test.loss", "test.f1", "test.calibration_error"),
        *("best.eval.accuracy", "best.eval.loss", "best.epoch"),
        *("eval.accuracy", "eval.loss", "train.accuracy", "train.loss", "step"),
    ]


def test_earlier_experiments_without_a_prefix_share_the_columns(project: Project):
    save(project, "new", "ccd")
    files, outputs = result_files({"train": {}}, [RIGHT])
    files["dvclive/evaluate/metrics.json"] = '{"accuracy": 0.25, "roc_auc": 0.5}'
    save_experiment(project, "earlier", files, outputs, time=99)
    metrics = {metric["name"]: metric["values"] for metric in compared()["metrics"]}
    assert metrics["test.accuracy"] == [pytest.approx(2 / 3), 0.25]
    assert metrics["test.roc_auc"] == [None, 0.5]
    project.run("python", "src/report.py", "--best", "1")
    data = data_of(project.root / "experiments.html")
    assert [experiment["name"] for experiment in data["experiments"]] == ["new"]


def test_experiments_without_an_interval_are_complete(project: Project):
    save(project, "new", "ccdd")
    files, outputs = result_files({"train": {}}, [RIGHT])
    for number, interval in enumerate((None, '{"low": 0.5, "high": NaN}', '{"low": 0.5}')):
        files["dvclive/evaluate/test_accuracy.json"] = interval
        if interval is None:
            del files["dvclive/evaluate/test_accuracy.json"]
        save_experiment(project, f"other{number}", files, outputs, time=10 + number)
    data = compared()
    assert data["accuracy_intervals"] == [[0.25, 0.75], None, None, None]
    unreadable = ["dvclive/evaluate/test_accuracy.json: cannot be read"]
    problems = [experiment["problems"] for experiment in data["experiments"]]
    assert problems == [[], [], unreadable, unreadable]


def test_changed_predictions_of_each_pair(project: Project):
    save(project, "one", "cddd")
    save(project, "other", "dcde")
    changed = compared()["changed"]
    assert changed["common"] == [[4, 4], [4, 4]]
    assert changed["fixed"] == [[0, 1], [1, 0]]
    assert changed["p_values"] == [[1, 1], [1, 1]]
    assert changed["other_mistakes"] == [[0, 1], [1, 0]]
    shown = {entry["path"]: number for number, entry in enumerate(changed["test_images"])}
    assert set(shown) == {"cat/0.png", "cat/1.png", "cat/3.png"}  # they agree on the third
    assert changed["classes"] == ["cat", "dog", "elk"]
    assert [row[shown["cat/3.png"]] for row in changed["predicted"]] == [1, 2]
    assert [row[shown["cat/3.png"]] for row in changed["percent"]] == [75, 75]
    assert all(image.startswith("data:image/webp;base64,") for image in changed["images"])
    assert changed["left_out"] == 0


def test_only_images_of_the_same_content_are_compared(project: Project):
    save(project, "one", "ccc")
    images = {f"cat/{n}.png": image_bytes(seed) for n, seed in enumerate((0, 77, 2))}
    save(project, "replaced", "ddd", images=images)
    changed = compared()["changed"]
    assert changed["common"] == [[3, 2], [2, 3]]
    assert changed["fixed"][1][0] == 2
    paths = [entry["path"] for entry in changed["test_images"]]
    assert sorted(paths) == ["cat/0.png", "cat/2.png"]
    assert changed["predicted"] == [[0, 0], [1, 1]]


def test_experiments_on_different_datasets_are_shown_together(project: Project):
    save(project, "cats", "ccd")
    files, outputs = result_files({"train": {"dropout": 0.1}}, [("7/1.png", "7", "1", 0.5)])
    save_experiment(project, "digits", files, {**outputs, "data/raw": {"7/1.png": image_bytes(9)}})
    data = compared()
    assert data["changed"]["common"] == [[1, 0], [0, 3]]
    assert data["changed"]["test_images"] == []
    classes = [matrix["classes"] for matrix in data["confusion"]["test"]]
    assert classes == [["1", "7"], ["cat", "dog"]]
    assert data["confusion"]["test"][1]["counts"] == [[2, 1], [0, 0]]
    assert data["f1"]["classes"] == ["1", "7", "cat", "dog"]
    assert data["f1"]["values"][1][:2] == [None, None]


def test_missing_and_broken_files_do_not_hide_other_results(project: Project):
    files, outputs = result_files({"train": {"dropout": 0.1}}, [RIGHT, WRONG])
    save_experiment(project, "nothing", {"unrelated": ""})
    broken = dict.fromkeys(files, "{[\x00 no such format: -")
    save_experiment(project, "broken", broken, dict.fromkeys(outputs, b"\xff\x00"))
    for number, content in enumerate(("", "null", "[]", "[[1]]", "3", '{"roc": [1]}')):
        wrong = dict.fromkeys(files, content)
        predictions = {"dvclive/evaluate/predictions.csv": content.encode()}
        save_experiment(project, f"wrong{number}", wrong, predictions)
    save_experiment(project, "good", files, outputs)
    data = compared()
    by_name = {experiment["name"]: experiment for experiment in data["experiments"]}
    assert len(by_name) == 9
    assert by_name["good"]["problems"] == []
    assert "dvclive/evaluate/metrics.json: cannot be read" in by_name["broken"]["problems"]
    problems = by_name["nothing"]["problems"]
    assert "dvclive/evaluate/predictions.csv: neither in Git nor in DVC's cache" in problems


def test_nan_and_infinity(project: Project):
    files, outputs = result_files({"train": {"dropout": 0.1}}, [RIGHT], losses=[0.5, 0.25])
    metrics = '{"test": {"loss": NaN, "accuracy": -Infinity, "f1": 0.5}}'
    files["dvclive/evaluate/metrics.json"] = metrics
    files["dvclive/train/plots/metrics/eval/loss.tsv"] = "step\tloss\n1\t0.5\n2\tnan\n3\tinf\n"
    outputs["dvclive/evaluate/predictions.csv"] = b"path,class,predicted,cat\na,cat,cat,nan\n"
    save_experiment(project, "diverged", files, outputs)
    data = compared()
    values = {metric["name"]: metric["values"] for metric in data["metrics"]}
    assert (values["test.loss"], values["test.accuracy"]) == (["NaN"], ["-inf"])
    assert values["test.f1"] == [0.5]
    curves = {curve["name"]: curve["curves"] for curve in data["training_curves"]}
    assert curves["eval/loss"] == [[[1, 2, 3], [0.5, None, None]]]
    assert data["experiments"][0]["problems"] == []


def test_the_sheet_of_the_best_epoch_is_shown_and_equal_ones_are_stored_once(project: Project):
    losses_of = {"early": [0.5, 0.2, 0.3], "same": [0.9, 0.2, 0.4], "late": [3, 2, 1]}
    for name, losses in losses_of.items():
        save_experiment(project, name, *result_files({"train": {}}, [RIGHT], losses))
    data = compared("early", "same", "late")
    sheets = {sheet["title"]: sheet["entries"] for sheet in data["sheets"]}
    names = [experiment["name"] for experiment in data["experiments"]]
    early, late, same = (
        sheets["validation_predictions"][names.index(name)] for name in ("early", "late", "same")
    )
    assert (early["epoch"], late["epoch"]) == (2, 3)
    assert early["image"] == same["image"] != late["image"]
    assert {entry["epoch"] for entry in sheets["mistakes"]} == {None}
    assert len(data["images"]) == 3 and all(data["images"])


def test_the_sweeps_of_the_experiments_are_shown(project: Project):
    save(project, "trial", "ccd")
    for sweep, experiment in (("wide", "trial"), ("other", "elsewhere")):
        folder = project.root / "sweeps" / sweep
        folder.mkdir()
        (folder / "trials.csv").write_text(
            f"number,experiment,state,value\n0,{experiment},PRUNED,0.5\n1,"  # being written
        )
        (folder / "history.png").write_bytes(image_bytes(1))
        (folder / "importance.png").write_bytes(b"half a pic")
    data = compared()
    assert [sweep["name"] for sweep in data["sweeps"]] == ["wide"]
    assert data["sweeps"][0]["titles"] == ["history", "importance"]
    assert [bool(image) for image in data["sweeps"][0]["images"]] == [True, False]
    assert data["experiments"][0]["state"] == "pruned"


def test_the_page_keeps_its_size_limit(project: Project):
    count, side = 60, 100
    images = {f"cat/{number}.png": image_bytes(number, (side, side)) for number in range(count)}
    for name in ("one", "other"):
        rows = [(path, "cat", "cat" if name == "one" else "dog", 0.5) for path in images]
        files, outputs = result_files({"train": {}}, rows)
        sheet = image_bytes(len(name), (900, 700))
        outputs["dvclive/evaluate/plots/images"] = {"mistakes.png": sheet}
        save_experiment(project, name, files, {**outputs, "data/raw": images})
    sizes = {}
    for max_bytes in (2_000_000, 150_000, 60_000):
        data = compared(max_bytes=max_bytes)
        sizes[max_bytes] = len(to_json(data))
        assert sizes[max_bytes] < max_bytes
        # Images are reduced or left out, but stay in the list.
        assert any(data["changed"]["images"]) and len(data["changed"]["images"]) == count
    assert sizes[2_000_000] > sizes[150_000] > sizes[60_000] > 20_000


def test_the_most_disputed_images_are_kept(project: Project, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("image_classifier.comparison.changes.MAX_IMAGES", 2)
    for number, predicted in enumerate(("cccd", "cddd", "dedd", "eedd")):
        save(project, f"experiment{number}", predicted)
    changed = compared()["changed"]
    # Fewest pairs agree on cat/1 and cat/0; all experiments agree on cat/3.
    assert [entry["path"] for entry in changed["test_images"]] == ["cat/0.png", "cat/1.png"]
    assert changed["left_out"] == 1
    assert changed["fixed"][3][0] == 3  # counts include all images
    assert changed["p_values"][3][0] == 0.25


def test_text_cannot_break_out_of_the_page(project: Project):
    name = "</script><b>&amp;\u2028"
    rows = [("x/</script>.png", name, name, 0.9), ("y.png", name, "<!--", 0.8)]
    save_experiment(project, "hostile", *result_files({"train": {"note": name}}, rows))
    project.run("python", "src/report.py")
    text = (project.root / "experiments.html").read_text(encoding="utf-8")
    assert name not in text and "<!--<" not in text
    data = data_of(project.root / "experiments.html")
    assert data["confusion"]["test"][0]["classes"] == sorted([name, "<!--"])


def test_many_points_and_classes_are_thinned(project: Project):
    rows = [(str(n), f"class {n:02}", f"class {(n + n % 2) % 90:02}", 0.5) for n in range(90)]
    files, _ = result_files({"train": {}}, rows)
    lines = [f"{step}\t{1 / step}\n" for step in range(1, 1001)]
    files["dvclive/train/plots/metrics/eval/loss.tsv"] = "".join(["step\tloss\n", *lines])
    save_experiment(project, "many", files)
    data = compared()
    curves = {curve["name"]: curve["curves"] for curve in data["training_curves"]}
    ((steps, values),) = curves["eval/loss"]
    assert len(steps) == len(values) <= 201
    assert (steps[0], steps[-1]) == (1, 1000)
    matrix = data["confusion"]["test"][0]
    assert len(matrix["classes"]) == 30 and matrix["left_out"] == 60
    assert len(data["f1"]["classes"]) == 30 and data["f1"]["left_out"] == 60
