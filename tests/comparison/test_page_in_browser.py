"""The page that compares experiments, in a browser."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from helpers.made_experiments import image_bytes, result_files, save_experiment
from helpers.project import Project

COUNT = 12
# Must appear literally on the page, not be parsed as HTML.
CAT = "cat</script><b>&amp;"


@pytest.fixture(scope="module")
def page_file(make_project: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of experiments that classify 1, 2, ... of twelve cats correctly."""
    project: Project = make_project(tmp_path_factory.mktemp("page"))
    images = {f"cat/{number}.png": image_bytes(number) for number in range(COUNT)}
    for number in range(COUNT):
        rows = [
            (path, CAT, CAT if index <= number else "dog", 0.75)
            for index, path in enumerate(images)
        ]
        losses = [1 / (number + epoch) for epoch in range(1, 5)]
        params = {"train": {"learning_rate": 10.0**-number, "dropout": 0.5}}
        files, outputs = result_files(params, rows, losses)
        outputs["data/raw"] = images
        save_experiment(project, f"trial-{number:02}", files, outputs, time=number)
    files["dvclive/evaluate/metrics.json"] = '{"test": {"accuracy": NaN, "loss": 0.5}}'
    files["dvclive/train/plots/metrics/eval/loss.tsv"] = "step\tloss\n1\tnan\n"
    files["dvclive/train/plots/metrics/train/loss.tsv"] = "step\tloss\n1\t0.5\n2\t0\n"
    save_experiment(project, "diverged", files, {}, time=100)
    save_experiment(project, "empty", dict.fromkeys(files, ""), {}, time=101)
    sweep = project.root / "sweeps/adam"
    sweep.mkdir(parents=True)
    (sweep / "trials.csv").write_text("number,experiment,state,value\n0,trial-00,PRUNED,0\n")
    (sweep / "history.png").write_bytes(image_bytes(0, (400, 300)))
    project.run("python", "src/report.py")
    return project.root / "experiments.html"


@pytest.fixture
def page(browser, page_file: Path) -> Iterator:
    """The open page. It must not log messages or send requests during a test."""
    messages, requests = [], []
    page = browser.new_page(viewport={"width": 1300, "height": 900})
    page.set_default_timeout(300_000)
    page.on("console", lambda message: messages.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(page_file.as_uri())
    settle(page)
    yield page
    page.wait_for_timeout(100)
    page.close()
    assert messages == []
    assert [url for url in requests if not url.startswith("data:")] == [page_file.as_uri()]


def names_in_the_table(page) -> list[str]:
    return page.locator("#experiments tbody tr:not([hidden]) th label").evaluate_all(
        "labels => labels.map((label) => label.title.split(' ')[0])"
    )


def settle(page) -> None:
    """Wait until all charts are drawn, with what has changed."""
    page.wait_for_function("charts.every((chart) => chart.view)")
    page.evaluate("Promise.all(charts.map((chart) => chart.view.runAsync())).then(() => null)")


def lines_of(page, title: str) -> int:
    settle(page)
    figure = page.locator("figure", has_text=title)
    return figure.locator("svg.marks .mark-line path").count()


def test_the_table_sorts_by_number_marks_the_best_and_is_filtered(page):
    head = page.locator("thead th", has_text="learning_rate")
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    names = names_in_the_table(page)
    assert set(names[:2]) == {"trial-11", "diverged"} and names[2:4] == ["trial-10", "trial-09"]
    head.locator("button").press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    names = names_in_the_table(page)
    assert names[:2] == ["trial-00", "trial-01"] and names[-1] == "empty"
    assert page.locator("thead [aria-sort]").count() == 1

    page.locator("thead button", has_text="loss").first.click()  # smallest first
    assert names_in_the_table(page)[0] == "trial-11"
    best = page.locator("td.best").evaluate_all("cells => cells.map((cell) => cell.textContent)")
    assert best[:4] == [f"{value} (best)" for value in ("1.0000", "0.0667", "1.0000", "0.0000")]
    interval = page.locator("thead th", has_text="95% interval").evaluate("cell => cell.cellIndex")
    cells = page.locator("tbody tr", has_text="trial-05").locator("th, td")
    assert cells.nth(interval - 1).inner_text() == "0.5000"
    assert cells.nth(interval).inner_text() == "0.250\u20130.750"
    # An accuracy of NaN is not a number: last.
    page.locator("thead button", has_text="accuracy").first.click()
    assert set(names_in_the_table(page)[-2:]) == {"diverged", "empty"}
    assert "NaN" in page.locator("tbody tr", has_text="diverged").inner_text()


def test_lines_are_shown_and_hidden(page):
    title = "Loss, training images"
    assert lines_of(page, title) == 10  # the best ones
    page.locator("#legend button", has_text="trial-11").click()
    assert lines_of(page, title) == 9
    assert lines_of(page, "ROC curve") == 9 + 1  # and the diagonal
    page.locator("#legend button", has_text="trial-11").click()
    page.locator("tbody tr", has_text="trial-00").locator("td").first.click()
    assert lines_of(page, title) == 11
    page.locator("#none").click()
    assert lines_of(page, title) == 0
    page.locator("#all").click()
    assert lines_of(page, title) == COUNT + 1
    page.get_by_label("logarithmic loss").check()
    page.get_by_label("zoom in on the ideal corner").check()
    assert lines_of(page, title) == COUNT + 1
    page.locator("#best").click()
    assert lines_of(page, title) == lines_of(page, "Precision-recall curve") == 10
    colors = (
        page.locator("figure", has_text=title)
        .locator(".mark-line path")
        .evaluate_all("paths => paths.map((path) => path.getAttribute('stroke'))")
    )
    assert len(set(colors)) == 10

    page.locator("#filter").fill("learning_rate=0.1")
    assert names_in_the_table(page) == ["trial-01"]
    page.locator("#all").click()
    assert lines_of(page, "Loss, training images") == 1


def test_pointing_at_a_line_names_its_experiment(page):
    page.locator("#none").click()
    page.locator("tbody tr", has_text="trial-00").locator("input").check()
    box = page.locator("figure", has_text="Loss, validation images").locator("svg.marks")
    box.scroll_into_view_if_needed()
    settle(page)
    place = page.evaluate(
        "(({view, box}) => { const frame = box.querySelector('svg').getBoundingClientRect();"
        " const [x, y] = view.origin(); return [frame.x + x + view.scale('x')(2),"
        " frame.y + y + view.scale('y')(0.5)]; })"
        "(charts.find(({title}) => title === 'Loss, validation images'))"
    )
    page.mouse.move(*place)
    assert page.locator("#tooltip").inner_text() == "trial-00\nepoch: 2\nloss: 0.5"
    assert page.locator("tr.highlighted").count() == 1


def test_changed_predictions_of_two_experiments_are_shown(page):
    page.locator("#before").select_option(label="trial-02")
    page.locator("#after").select_option(label="trial-07")
    changed = page.locator("#changed")
    assert "Of 12 test images in common, 5 fixed, 0 newly broken" in changed.inner_text()
    assert changed.locator(".verdict").inner_text().replace("\u00a0", " ") == (
        "This may be luck: if both models were equally good, a difference at least this large "
        "would come by chance in 6 of 100 cases (p = 0.063, exact McNemar test)."
    )
    few = "Only 12 test images are in common: so few reveal only large differences."
    assert few in changed.inner_text() and "best partly by luck" not in changed.inner_text()
    assert changed.locator(".image").count() == 5
    paths = changed.locator(".image img").evaluate_all("images => images.map(({alt}) => alt)")
    assert sorted(paths) == [f"cat/{number}.png" for number in range(3, 8)]
    assert CAT in changed.locator(".image").first.inner_text()
    loaded = (
        "images => Promise.all(images.map((image) => image.decode().then("
        "() => image.naturalWidth === 24))).then((loaded) => loaded.every(Boolean))"
    )
    assert changed.locator(".image img").evaluate_all(loaded)
    # By keyboard: charts that scroll into view may move the button away from the mouse.
    changed.get_by_role("button", name="Swap").press("Enter")
    assert "0 fixed, 5 newly broken" in changed.inner_text()
    page.locator("#after").select_option(label="trial-07")
    assert "Select two different experiments." in changed.inner_text()


SAID = """([repaired, broken, p]) => {
    Object.assign(data.changed, {fixed: [[0, repaired], [broken, 0]], p_values: [[1, p], [p, 1]]});
    return element("p", {}, ...verdict(0, 1)).textContent.replaceAll("\\u00a0", " ");
}"""


def test_the_verdict_suits_the_probability(page):
    chances = {
        0.0: "This is hardly luck: {} in fewer than 1 of 1,000 cases (p < 0.001, {}",
        0.0044: "This is hardly luck: {} in 4 of 1,000 cases (p = 0.0044, {}",
        0.031: "This is hardly luck: {} in 3 of 100 cases (p = 0.031, {}",
        0.289: "This may be luck: {} in 29 of 100 cases (p = 0.29, {}",
        0.9999: "This may be luck: {} almost always (p = 1.0, {}",
    }
    equal = (
        "if both models were equally good, a difference at least this large would come by chance"
    )
    for p, text in chances.items():
        assert page.evaluate(SAID, [6, 2, p]) == text.format(equal, "exact McNemar test).")
    assert page.evaluate(SAID, [2, 2, 1]) == (
        "No difference in accuracy: as many are fixed as newly broken."
    )
    assert page.evaluate(SAID, [0, 0, 1]) == (
        "No difference to explain: the same test images are right in both."
    )


def test_the_page_warns_of_few_images_and_many_experiments(page):
    said = "() => cautions(0, 1).map(({textContent}) => textContent)"
    page.evaluate("data.changed.common = [[300, 20], [20, 280]]; data.found = 100; null")
    few, many = page.evaluate(said)
    assert few == (
        "Only 20 test images are in common, of 300 and 280: so few reveal only large differences."
    )
    assert many == (
        "The best of 100 experiments is best partly by luck: expect a lower accuracy on new images."
    )
    page.evaluate("data.changed.common = [[300, 290], [290, 300]]; data.found = 19; null")
    assert page.evaluate(said) == []


def test_matrices_sheets_and_sweeps_are_shown(page):
    page.locator("#none").click()
    page.locator("tbody tr", has_text="trial-03").locator("input").check()
    page.locator("#confusion").scroll_into_view_if_needed()
    page.locator("#confusion svg.marks").wait_for()
    assert page.locator("#confusion figure").count() == 1
    assert CAT[:3] in page.locator("#confusion svg.marks").inner_html()
    page.get_by_role("button", name="Validation images").press("Enter")
    page.locator("#confusion svg.marks").wait_for()
    page.emulate_media(color_scheme="dark")  # renders everything again
    page.locator("#confusion svg.marks").wait_for()
    settle(page)
    page.locator("#sheets").scroll_into_view_if_needed()
    page.get_by_role("button", name="Validation predictions").press("Enter")
    assert "epoch 4" in page.locator("#sheets figcaption").inner_text()
    page.locator("#sheets img").click()
    assert page.locator("dialog img").is_visible()
    page.locator("dialog").click()
    assert not page.locator("dialog img").is_visible()
    assert page.locator("#sweep img").count() == 1
    assert "pruned" in page.locator("tbody tr", has_text="trial-00").inner_text()
    assert "incomplete" in page.locator("tbody tr", has_text="empty").inner_text()


def test_a_phone_does_not_scroll_sideways(page):
    page.set_viewport_size({"width": 375, "height": 800})
    page.locator("#all").click()
    for section in ("#training", "#test", "#confusion", "#changed", "#sheets", "#sweep"):
        page.locator(section).scroll_into_view_if_needed()
        page.wait_for_timeout(100)
        assert page.evaluate("document.documentElement.scrollWidth") <= 375, section
    width = "document.querySelector('figure svg.marks').getBoundingClientRect().width"
    page.wait_for_function(f"200 < {width} && {width} <= 351")
