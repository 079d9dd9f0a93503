"""The charts that dvc.yaml declares, filled as DVC and its extension fill them, and drawn."""

import json
import re
from collections.abc import Callable, Iterator

import pytest
from dvc_render.vega import VegaRenderer
from ruamel.yaml import YAML

from helpers.project import REPOSITORY

TEMPLATES = REPOSITORY / ".dvc/plots"
DECLARED = YAML(typ="safe").load(REPOSITORY / "dvc.yaml")["plots"]
CHARTS = {
    name: chart for entry in DECLARED if isinstance(entry, dict) for name, chart in entry.items()
}
NAMES = sorted(path.stem for path in TEMPLATES.glob("*.json"))
ANCHOR = re.compile(r"<DVC_METRIC_\w+>")
LOSSES = ("eval/loss.tsv", "train/loss.tsv")


def renderer(template: str, x: str, y: str, rows: list[dict], files: tuple = ()) -> VegaRenderer:
    return VegaRenderer(
        [dict(row) for row in rows],
        "chart",
        template=template,
        template_dir=TEMPLATES,
        x=x,
        y=y,
        x_label="across",
        y_label="up",
        title="Chart",
        anchors_y_definitions=[{"filename": file, "field": y} for file in files],
    )


def curve(rev: str, values: list, file: str = LOSSES[0]) -> list[dict]:
    """Rows of a TSV of DVCLive, as DVC reads them."""
    return [
        {"step": str(epoch), "loss": str(value), "rev": rev, "filename": file, "field": "loss"}
        for epoch, value in enumerate(values, start=1)
    ]


def confused(rev: str, *counts: tuple[str, str, int]) -> list[dict]:
    """Rows of a confusion matrix, given (true class, predicted class, number of images)."""
    return [
        {"actual": actual, "predicted": predicted, "rev": rev}
        for actual, predicted, count in counts
        for _ in range(count)
    ]


def test_titles_are_short_and_unlike():
    titles = [chart["title"] for chart in CHARTS.values()]
    assert max(map(len, titles)) <= 25  # the extension cuts longer ones from the left
    assert len(set(titles)) == len(titles) == 12


def test_the_charts_stand_in_the_order_in_which_they_are_read():
    names = [next(iter(entry)) if isinstance(entry, dict) else entry for entry in DECLARED]
    assert names[:3] == ["Accuracy", "Loss", "Learning rate"]
    first_image, last_image = (
        names.index(f"dvclive/{stage}/plots/images") for stage in ("train", "evaluate")
    )
    assert all("confusion matrix" in name for name in names[3:5])
    assert names.index("Calibration") + 1 == first_image == last_image - 1
    assert set(names[last_image + 1 :]) == {"Epoch time", "CPU", "Memory"}


def test_every_template_is_used_and_every_chart_has_one():
    assert sorted({chart["template"] for chart in CHARTS.values()}) == NAMES
    assert all("x_label" in chart and "y_label" in chart for chart in CHARTS.values())
    for chart in CHARTS.values():
        if chart["template"] == "confusion_matrix":
            # The template takes a share of the images of each y.
            assert chart["x"] == "predicted" and set(chart["y"].values()) == {"actual"}


@pytest.mark.parametrize("name", NAMES)
def test_a_template_has_the_anchors_that_dvc_and_the_extension_fill(name: str):
    text = (TEMPLATES / f"{name}.json").read_text(encoding="utf-8")
    anchors = set(ANCHOR.findall(text))
    wanted = ("DATA", "TITLE", "X", "Y", "X_LABEL", "Y_LABEL", "PLOT_WIDTH", "PLOT_HEIGHT")
    assert anchors >= {f"<DVC_METRIC_{anchor}>" for anchor in wanted}
    rows = [{"x": 1, "y": 0.5, "rev": rev} for rev in ("a", "b")]
    filled = renderer(name, "x", "y", rows).get_filled_template()
    assert not ANCHOR.findall(json.dumps(filled))
    # The extension replaces what is left, and only values that are an anchor as a whole.
    content, split = renderer(name, "x", "y", rows).get_partial_filled_template()
    left = re.findall(r'"([^"]*<DVC_METRIC_\w+>[^"]*)"', json.dumps(content))
    assert set(left) <= set(split["anchor_definitions"])


def test_the_two_templates_of_curves_differ_by_their_scale_alone():
    linear, logarithmic = (
        json.loads((TEMPLATES / f"{name}.json").read_text()) for name in ("lines", "lines_log")
    )
    for template in (linear, logarithmic):
        del template["description"], template["encoding"]["y"]["scale"]
    del logarithmic["transform"][3:6]  # what draws zero
    assert linear == logarithmic


class Drawn:
    """What a chart shows."""

    def __init__(self, page) -> None:
        self._page = page

    def labels(self) -> list[str]:
        """The text of each mark for those who cannot see it: "across: 1; up: 2; ..."."""
        marks = self._page.locator(".role-mark [aria-label]")
        return marks.evaluate_all("marks => marks.map((mark) => mark.getAttribute('aria-label'))")

    def texts(self, selector: str) -> list[str]:
        return self._page.locator(f"{selector} text").all_text_contents()

    def lines(self) -> list[tuple[str, str]]:
        """Of each line that is longer than a point, its experiment and its dashes."""
        paths = self._page.locator(".mark-line path").evaluate_all(
            "paths => paths.map((path) => [path.getAttribute('aria-label'), "
            "path.getAttribute('stroke-dasharray'), path.getAttribute('d')])"
        )
        return [(label, dashes or "") for label, dashes, shape in paths if "L" in shape]

    def axis(self, name: str) -> tuple[float, float]:
        """Where an axis begins and ends."""
        label = self._page.locator(f".role-axis[aria-label^={name}]").get_attribute("aria-label")
        return tuple(map(float, re.search("values from (.*) to (.*)", label).groups()))


@pytest.fixture
def draw(browser) -> Iterator[Callable]:
    """Draw a chart on the page of `dvc plots show`; it must not ask for anything."""
    requests = []
    page = browser.new_page(viewport={"width": 1300, "height": 900})
    page.set_default_timeout(300_000)
    page.on("request", lambda request: requests.append(request.url))
    html = (TEMPLATES / "page.html").read_text(encoding="utf-8")
    page.set_content(html.replace("{plot_divs}", '<div id="chart"></div>'))

    def draw(*arguments: object, **options: object) -> Drawn:
        filled = renderer(*arguments, **options).get_filled_template()
        page.evaluate("async (filled) => { await vegaEmbed('#chart', filled) }", filled)
        return Drawn(page)

    yield draw
    page.close()
    assert requests == []


def test_a_confusion_matrix_has_numbers_and_the_share_of_each_true_class(draw: Callable):
    rows = confused("a", ("cat", "cat", 3), ("cat", "dog", 1), ("dog", "cat", 1200))
    rows += confused("b", ("cat", "cat", 4), ("dog", "dog", 2))
    rows += confused("other", ("0", "0", 1), ("1", "2", 1))
    drawn = draw("confusion_matrix", "predicted", "actual", rows)
    cells = {}
    for label in drawn.labels():
        cell = dict(pair.split(": ") for pair in label.split("; "))
        if "share" in cell:
            key = (cell["rev"], cell["up"], cell["across"])
            cells[key] = (cell["images"], cell["share of the true class"])
    of_cats_and_dogs = {key: cell for key, cell in cells.items() if key[0] in "ab"}
    assert of_cats_and_dogs == {
        ("a", "cat", "cat"): ("3", "75.0%"),
        ("a", "cat", "dog"): ("1", "25.0%"),
        ("a", "dog", "cat"): ("1,200", "100.0%"),
        ("a", "dog", "dog"): ("0", "0.0%"),
        ("b", "cat", "cat"): ("4", "100.0%"),
        ("b", "cat", "dog"): ("0", "0.0%"),
        ("b", "dog", "cat"): ("0", "0.0%"),
        ("b", "dog", "dog"): ("2", "100.0%"),
    }
    # Classes that are never predicted, or never true, have their column and row; those of other
    # experiments do not.
    assert {key[1:] for key in cells if key[0] == "other"} == {
        (actual, predicted) for actual in "012" for predicted in "012"
    }
    assert cells["other", "1", "1"] == ("0", "0.0%") and cells["other", "2", "0"] == ("0", "0.0%")
    numbers = drawn.texts(".mark-text.role-mark")
    assert sorted(numbers) == sorted(["3", "1", "1200", "4", "2", "1", "1"])


def test_the_numbers_of_ten_classes_fit_into_their_cells(draw: Callable):
    classes = [f"class {number}" for number in range(10)]
    rows = confused("a", *((name, name, 1000) for name in classes))
    drawn = draw("confusion_matrix", "predicted", "actual", rows)
    assert drawn.texts(".mark-text.role-mark") == ["1000"] * 10
    assert set(drawn.texts(".role-axis-label")) == set(classes)
    cells, texts = (
        drawn._page.locator(f"{mark}.role-mark > *").evaluate_all(
            "marks => marks.map((mark) => mark.getBoundingClientRect().width)"
        )
        for mark in (".mark-rect", ".mark-text")
    )
    assert max(texts) <= min(cells) == pytest.approx(30, abs=1)


def test_a_constant_has_a_readable_axis(draw: Callable):
    for value, label in ((0.001, "0.001"), (0.00003, "0.00003"), (0.3, "0.3")):
        rows = [{"step": str(epoch), "rate": str(value), "rev": "a"} for epoch in range(1, 4)]
        drawn = draw("lines_log", "step", "rate", rows)
        low, high = drawn.axis("Y")
        assert low < value <= high
        assert label in drawn.texts(".role-axis-label")
        assert drawn.texts(".role-legend-label").count("") == 1  # no name for a single line


def test_a_rate_that_decays_over_orders_of_magnitude_has_a_label_for_each(draw: Callable):
    rates = [10.0**-exponent for exponent in range(2, 7)]
    rows = [{"step": str(n), "rate": str(rate), "rev": "a"} for n, rate in enumerate(rates, 1)]
    drawn = draw("lines_log", "step", "rate", rows)
    labels = {"0.01", "0.001", "0.0001", "0.00001", "0.000001"}
    assert labels <= set(drawn.texts(".role-axis-label"))


def test_a_huge_first_loss_leaves_the_others_apart(draw: Callable):
    rows = curve("a", [3862, 2.3, 2.3]) + curve("b", [1, 0.2, 0.1])
    drawn = draw("lines_log", "step", "loss", rows, files=LOSSES)
    tops = drawn._page.locator(".mark-symbol.role-mark path[aria-label*=step]").evaluate_all(
        "points => points.map((point) => point.getBoundingClientRect().y)"
    )
    assert len(tops) == 6 and tops[5] - tops[4] > 15  # 0.1 below 0.2, in pixels


def test_training_and_validation_differ_for_each_experiment(draw: Callable):
    rows = [
        row
        for number, rev in enumerate("abc", start=1)
        for file in LOSSES
        for row in curve(rev, [number, number / 2], file)
    ]
    drawn = draw("lines_log", "step", "loss", rows, files=LOSSES)
    lines = drawn.lines()
    assert len(lines) == 6
    for label, dashes in lines:
        assert ("training" in label) == (dashes == "4,3")
    assert {"validation", "training", "a", "b", "c"} <= set(drawn.texts(".role-legend-label"))


@pytest.mark.parametrize("template", ["lines", "lines_log"])
def test_what_is_not_a_number_or_zero_leaves_the_rest(draw: Callable, template: str):
    rows = curve("a", [1, 0.5, 0]) + curve("b", ["2", "inf", "nan"])
    drawn = draw(template, "step", "loss", rows, files=LOSSES)
    low, high = drawn.axis("Y")
    assert low in (0, 0.5) and high == 2
    assert len(drawn.lines()) == 1
    drawn = draw(template, "step", "loss", curve("a", ["nan"]), files=LOSSES)
    assert drawn.texts(".role-title-text") == ["Chart"]
    assert drawn.axis("Y")[0] > -1


def samples(rev: str, device: str, *values: float, start: int = 1_700_000_000_000) -> list[dict]:
    """Rows of a TSV of the monitor, one for each second."""
    return [
        {
            "timestamp": str(start + 1000 * second),
            "use": str(value),
            "rev": rev,
            "filename": f"{device}/use.tsv",
            "field": "use",
        }
        for second, value in enumerate(values)
    ]


def test_devices_differ_and_are_named_only_if_there_are_several(draw: Callable):
    files = ("cpu/use.tsv", "gpu/use.tsv")
    rows = samples("a", "cpu", 50, 60, 5) + samples("a", "gpu", 90, 80, 9, start=1_700_000_000_020)
    rows += samples("b", "cpu", 40, 30, 20, 2)
    drawn = draw("seconds_since_start", "timestamp", "use", rows, files=files)
    assert {"CPU", "GPU", "a", "b"} <= set(drawn.texts(".role-legend-label"))
    lines = drawn.lines()
    assert len(lines) == 3
    for label, dashes in lines:
        assert ("GPU" in label) == (dashes == "4,3")
    # The last sample of each line, which covers less than a second, is left out.
    assert drawn.axis("X") == (0, 2) and drawn.axis("Y") == (0, 90)

    rows = [row for row in rows if "cpu" in row["filename"]]
    drawn = draw("seconds_since_start", "timestamp", "use", rows, files=files)
    assert len(drawn.lines()) == 2
    assert {"CPU", "GPU"}.isdisjoint(drawn.texts(".role-legend-label"))


def test_a_single_epoch_is_a_point_and_epochs_are_whole(draw: Callable):
    drawn = draw("lines", "step", "loss", curve("a", [0.5]) + curve("b", [0.7]), files=LOSSES)
    seen = drawn._page.locator(".mark-symbol.role-mark path[aria-label*=step]").evaluate_all(
        "points => points.map((point) => point.getAttribute('opacity'))"
    )
    assert seen == ["1", "1"]
    drawn = draw("lines", "step", "loss", curve("a", [0.5, 0.6, 0.7]), files=LOSSES)
    labels = drawn.texts(".role-axis[aria-label^=X] .role-axis-label")
    assert [label for label in labels if label] == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("x", "y", "diagonal"),
    [("fpr", "tpr", True), ("recall", "precision", False), ("prob_pred", "prob_true", True)],
)
def test_test_curves_have_few_labels_and_their_diagonal(
    draw: Callable, x: str, y: str, diagonal: bool
):
    rows = [{x: value / 10, y: value / 20, "rev": "a"} for value in range(11)]
    drawn = draw("unit_square", x, y, rows)
    labels = drawn.texts(".role-axis[aria-label^=X] .role-axis-label")
    assert labels == ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]
    assert drawn.axis("X") == drawn.axis("Y") == (0, 1)
    assert len(drawn.lines()) == 1 + diagonal


def test_a_curve_is_drawn_in_the_order_of_its_data(draw: Callable):
    points = [(1, 0.2), (1, 0.4), (0.5, 0.4), (0.5, 0.9), (0, 1)]
    rows = [{"recall": x, "precision": y, "rev": "a"} for x, y in points]
    drawn = draw("unit_square", "recall", "precision", rows)
    path = drawn._page.locator(".mark-line path").get_attribute("d")
    drawn_points = [tuple(map(float, point)) for point in re.findall(r"([\d.]+),([\d.]+)", path)]
    assert drawn_points == [(300 * x, pytest.approx(300 * (1 - y))) for x, y in points]


def test_each_class_and_experiment_has_a_place_of_its_own(draw: Callable):
    classes = ["z", "a", *(f"class {number}" for number in range(8))]
    rows = [
        {"class": name, "f1": 1.0, "rev": rev}
        for rev in ("workspace", "b", "c", "d", "e", "f")
        for name in classes
    ]
    drawn = draw("per_class", "f1", "class", rows)
    labels = drawn.texts(".role-axis[aria-label^=Y] .role-axis-label")
    assert [label for label in labels if label] == classes  # in their order in the data
    tops = drawn._page.locator(".mark-symbol.role-mark path[aria-label*=f1]").evaluate_all(
        "points => points.map((point) => Math.round(point.getBoundingClientRect().y))"
    )
    assert len(set(tops)) == 60
    assert drawn.axis("X") == (0.9, 1)
    rows[0]["f1"] = 0.2
    assert draw("per_class", "f1", "class", rows).axis("X")[0] <= 0.2


def test_the_page_fits_a_telephone(browser):
    html = (TEMPLATES / "page.html").read_text(encoding="utf-8")
    page = browser.new_page(viewport={"width": 360, "height": 700})
    page.set_content(html.replace("{plot_divs}", '<div id="chart"></div>'))
    rows = curve("an experiment", [1, 0.5]) + curve("another experiment", [1, 0.5])
    filled = renderer("lines", "step", "loss", rows, LOSSES).get_filled_template()
    page.evaluate("async (filled) => { await vegaEmbed('#chart', filled) }", filled)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    box = page.locator("svg.marks").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 360
    page.close()
