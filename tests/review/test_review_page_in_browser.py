"""The page of a review, in a browser."""

import csv
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.made_review import made_review, write_records
from image_classifier.computing.corrections import Correction
from image_classifier.review.findings import ConfusedClasses, Finding
from image_classifier.review.page import build_page

# Must appear literally on the page, not be parsed as HTML.
CAT, DOG, ELK = "cat</script><b>&amp;", "dog, brown", 'the "elk"'
ROWS = [
    *[(CAT, "train")] * 4,
    (DOG, "train"),
    (DOG, "validation"),
    (ELK, "train"),
    (CAT, "test"),
    (DOG, "test"),
    ("fox", "train"),
]
FINDINGS = [
    *(Finding(row, "label", DOG, 0.9) for row in range(3)),
    Finding(7, "label", ELK, 0.8),
    Finding(4, "near_duplicate", "5.png", 0.9),
    Finding(2, "near_duplicate", "8.png", 0.9),
    Finding(0, "outlier", "", 0.9),
    Finding(6, "outlier", "", 0.8),
    Finding(6, "quality", "dark", 0.9),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], list[Correction]]:
    """A page, the hashes of its images, and the corrections that were made earlier."""
    root = tmp_path_factory.mktemp("review")
    records = write_records(root, ROWS)
    hashes = [record.sha256 for record in records]
    earlier = [
        Correction("e" * 64, "cat/removed.png", ""),
        Correction(hashes[1], "1.png", CAT),
        Correction(hashes[2], "renamed.png", CAT),
    ]
    review = made_review(records, FINDINGS, [ConfusedClasses(CAT, DOG, 3, 8)], earlier)
    later = review._replace(table_sha256="1" * 64)
    for name, shown in (("review.html", review), ("later.html", later)):
        text = build_page(shown, ("train", "validation"), lambda r: str(root / r.path))
        (root / name).write_text(text, encoding="utf-8")
    return root / "review.html", hashes, earlier


@pytest.fixture
def page(browser, made: tuple) -> Iterator:
    """The open page. It must not log messages or send requests during a test."""
    messages, requests = [], []
    page = browser.new_page(viewport={"width": 1300, "height": 900})
    page.on("console", lambda message: messages.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(made[0].as_uri())
    yield page
    page.wait_for_timeout(100)
    page.close()
    assert messages == []
    folder = made[0].parent.as_uri()
    assert all(url.startswith(("data:", "blob:null/", folder)) for url in requests), requests


def card(page, section: str, number: int):
    return page.locator(f"#{section} .image").nth(number)


def press(page, section: str, number: int, name: str) -> None:
    card(page, section, number).get_by_role("button", name=name, exact=True).click()


def progress(page) -> str:
    return page.locator("#progress").inner_text().replace("\u00a0", " ").split(" \u00b7 ")[0]


def saved(page) -> list[list[str]]:
    with page.expect_download() as download:
        page.locator("#save").click()
    assert download.value.suggested_filename == "corrections.csv"
    with Path(download.value.path()).open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def test_all_findings_are_shown_with_their_text(page):
    assert page.locator("#summary").inner_text().replace("\u00a0", " ") == (
        "10 images \u00b7 4 classes \u00b7 4 labels probably wrong \u00b7 2 near duplicates "
        "\u00b7 2 outliers \u00b7 1 of poor quality"
    )
    assert "label\n" + CAT + "\n3%" in card(page, "labels", 0).inner_text()
    assert "predicted\n" + DOG + "\n90%" in card(page, "labels", 0).inner_text()
    pairs = page.locator("#pairs .pair > .tools")
    assert "train \u2013 test" in pairs.nth(0).inner_text()  # it comes first
    assert "different classes" in pairs.nth(0).inner_text()
    assert pairs.nth(1).locator(".badge").inner_text() == "train \u2013 validation"
    assert card(page, "quality", 0).locator(".alarm").inner_text() == "dark"
    assert f"{CAT} \u2013 {DOG}\t3\t38%" in page.locator("#confused").inner_text()
    assert f"{CAT}\t4\t0\t1\t5" in page.locator("#counts").inner_text()
    decoded = "images => Promise.all(images.map((image) => image.decode())).then(() => true)"
    assert page.locator(".image img").evaluate_all(decoded)


def test_a_mark_is_the_same_in_all_sections_and_can_be_removed(page):
    press(page, "outliers", 1, "Leave out")
    assert card(page, "quality", 0).locator(".state").inner_text() == "left out"
    assert progress(page) == "1 marked: 1 left out"
    press(page, "quality", 0, "Keep")
    assert card(page, "outliers", 1).locator(".state").inner_text() == "kept"
    press(page, "outliers", 1, "Keep")
    assert progress(page) == "0 marked"
    assert card(page, "quality", 0).locator(".state").is_hidden()

    choice = card(page, "outliers", 0).get_by_label("Relabel")
    choice.focus()
    choice.select_option(ELK)
    assert card(page, "labels", 0).locator(".state").inner_text() == f"\u2192 {ELK}"
    assert card(page, "labels", 0).get_by_label("Another class").input_value() == ELK
    page.locator("#undo").click()
    page.locator("#undo").click()
    assert progress(page) == "1 marked: 1 kept"
    assert choice.input_value() == ""


def test_all_unmarked_images_are_relabelled_and_it_can_be_undone(page):
    press(page, "labels", 1, "Keep")
    page.get_by_role("button", name="Relabel all 2 unmarked as predicted").click()
    assert progress(page) == "3 marked: 2 relabelled, 1 kept"
    assert page.get_by_role("button", name="Relabel all").count() == 0
    page.locator("#undo").click()
    assert progress(page) == "1 marked: 1 kept"


def test_a_pair_is_kept_without_losing_a_label(page):
    keep = page.locator("#pairs .pair").get_by_role("button", name="Keep both")
    press(page, "labels", 2, f"Relabel: {DOG}")
    keep.nth(0).click()  # the other image is a test image
    press(page, "pairs", 2, "Leave out")
    keep.nth(1).click()
    assert progress(page) == "3 marked: 1 relabelled, 2 kept"
    keep.nth(1).click()
    assert progress(page) == "1 marked: 1 relabelled"


def test_images_of_other_splits_cannot_be_marked(page):
    for section, number in (("labels", 3), ("pairs", 1)):  # 7.png, 8.png
        test_image = card(page, section, number)
        assert "test image: use --splits to correct it" in test_image.inner_text()
        assert test_image.locator("button, select").count() == 0
        for key in "axk":
            test_image.focus()
            page.keyboard.press(key)
    assert progress(page) == "1 marked: 1 kept"  # the other image of the pair


def test_everything_works_by_keyboard(page):
    def focused() -> str:
        return page.evaluate("document.activeElement.getAttribute('aria-label')")

    page.keyboard.press("n")
    assert focused() == "0.png"
    page.keyboard.press("a")
    page.keyboard.press("x")
    assert focused() == "2.png" and progress(page) == "2 marked: 1 relabelled, 1 left out"
    page.keyboard.press("u")
    assert focused() == "1.png" and progress(page) == "1 marked: 1 relabelled"
    page.keyboard.press("k")
    page.keyboard.press("p")
    page.keyboard.press("k")  # again: no mark
    assert focused() == "1.png" and progress(page) == "1 marked: 1 relabelled"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("c")
    assert focused() == "Another class"
    page.keyboard.press("Escape")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert focused() == "0.png"
    page.keyboard.press("ArrowDown")
    assert focused() == "2.png"  # in the first pair
    page.keyboard.press("k")
    assert focused() == "4.png" and progress(page) == "2 marked: 1 relabelled, 1 kept"
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert page.evaluate(outline) == "solid"


def test_the_saved_file_has_the_marks_and_the_earlier_corrections(page, made: tuple):
    _, hashes, earlier = made
    unchanged = sorted(earlier, key=lambda correction: correction.path)
    assert saved(page)[1:] == [list(correction) for correction in unchanged]
    press(page, "labels", 0, f"Relabel: {DOG}")
    press(page, "labels", 1, "Leave out")
    press(page, "labels", 2, "Keep")  # the class that an earlier correction gave it
    press(page, "quality", 0, "Leave out")
    press(page, "quality", 0, "Leave out")
    choice = card(page, "outliers", 1).get_by_label("Relabel")
    choice.focus()
    choice.select_option(CAT)
    assert saved(page) == [
        ["sha256", "path", "class"],
        [hashes[0], "0.png", DOG],
        [hashes[1], "1.png", ""],
        [hashes[6], "6.png", CAT],
        ["e" * 64, "cat/removed.png", ""],
        [hashes[2], "renamed.png", CAT],
    ]
    assert "the file includes 2 earlier corrections" in page.locator("#progress").inner_text()
    command = "dvc exp run -S prepare.corrections=corrections.csv"
    assert command in page.locator("#next").inner_text()
    page.locator("#undo").click()
    assert page.locator("#next").is_hidden()


def test_marks_survive_a_reload_but_not_new_data(page, made: tuple):
    press(page, "labels", 0, f"Relabel: {DOG}")
    press(page, "labels", 1, "Leave out")
    page.reload()
    assert progress(page) == "2 marked: 1 relabelled, 1 left out"
    assert card(page, "outliers", 0).locator(".state").inner_text() == f"\u2192 {DOG}"
    page.goto(made[0].with_name("later.html").as_uri())
    assert progress(page) == "0 marked"


def test_it_works_where_nothing_can_be_stored(page):
    page.add_init_script(
        "Object.defineProperty(window, 'localStorage', {get() { throw new Error('denied'); }})"
    )
    page.reload()
    press(page, "labels", 1, "Leave out")
    assert progress(page) == "1 marked: 1 left out"
    page.reload()
    assert progress(page) == "0 marked"


def test_a_phone_does_not_scroll_sideways(page):
    page.set_viewport_size({"width": 375, "height": 800})
    press(page, "labels", 0, f"Relabel: {DOG}")
    page.locator("#save").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
