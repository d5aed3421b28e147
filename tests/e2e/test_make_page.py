"""The “Make a direction” tab as a visitor uses it, on the real page with the bundled model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from driving import PATIENCE, sideways
from playwright.sync_api import Locator, Page, expect

from steering.directions import Direction

QUESTIONS = Path(__file__).resolve().parents[1] / "data" / "questions-about-the-sea.csv"
EVIL = "<img src=x onerror='window.taken = 1'>"


def open_tab(page: Page) -> None:
    page.get_by_role("tab", name="Make a direction").click()
    expect(page.locator("#use-sample")).to_be_visible()


def use_sample(page: Page) -> None:
    page.locator("#use-sample").click()
    expect(page.locator("#make-check .figures")).to_contain_text("32 + 8")


def give_questions(page: Page) -> None:
    """A set of prompts, which is read at several positions."""
    page.locator("#upload input[type=file]").set_input_files(QUESTIONS)
    expect(page.locator("#make-check .figures")).to_contain_text("32 + 8")


def find(page: Page) -> None:
    page.locator("#compute").click()
    expect(page.locator("#use-direction")).to_be_visible(timeout=PATIENCE)
    expect(page.locator("#make-progress")).to_contain_text("Found.")


def chosen(page: Page) -> Locator:
    return page.locator(".squares td.chosen button")


def place(square: Locator) -> tuple[int, int]:
    """(position, layer) of a square."""
    return int(square.get_attribute("data-position") or ""), int(square.get_attribute("data-layer") or "")


@pytest.fixture
def tab(page: Page) -> Page:
    open_tab(page)
    return page


def give(page: Page, box: str, path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    page.locator(f"{box} input[type=file]").set_input_files(path)


# ---------------------------------------------------------------- the whole way


def test_from_the_sample_to_the_chat_and_back_from_the_file(tab: Page, tmp_path: Path) -> None:
    page = tab
    use_sample(page)
    expect(page.locator("#make-check .pairs tbody tr")).to_have_count(3)
    expect(page.get_by_label("Name it")).to_have_value("Like Shakespeare")
    find(page)
    card = page.locator("#quality-card")
    expect(card.locator("h2")).to_have_text("Like Shakespeare")
    expect(card).to_contain_text("from 80 texts · SmolLM2-135M-Instruct · seed 0")
    expect(card.locator(".key-figures")).to_contain_text("of 16")
    suggested = place(chosen(page))

    with page.expect_download() as download:
        page.locator("#download-direction").click()
    assert download.value.suggested_filename == "like-shakespeare.safetensors"
    download.value.save_as(tmp_path / "like-shakespeare.safetensors")
    direction = Direction.load(tmp_path / "like-shakespeare.safetensors")
    assert (direction.position, direction.layer) == suggested
    with page.expect_download() as download:
        page.locator("#download-card").click()
    download.value.save_as(tmp_path / "like-shakespeare.json")
    assert json.loads((tmp_path / "like-shakespeare.json").read_text())["auroc"] == direction.card["auroc"]

    page.locator("#upload-direction input[type=file]").set_input_files(tmp_path / "like-shakespeare.safetensors")
    expect(card).to_contain_text("from its own card")
    expect(card).to_contain_text(f"Layer {direction.layer} of 30")
    page.locator("#use-direction").click()
    expect(page.locator("#pane-added .pane-name")).to_have_text("Your idea turned up")
    expect(page.locator("#idea label").filter(has_text="Like Shakespeare")).not_to_have_count(0)


def test_another_square_by_press_by_keyboard_and_by_the_controls(tab: Page) -> None:
    page = tab
    give_questions(page)
    find(page)
    page.locator(".squares button[data-layer='12'][data-position='-6']").click()
    expect(page.locator(".key-figures")).to_contain_text("Layer 12 of 30")
    assert place(chosen(page)) == (-6, 12)
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.locator(".key-figures")).to_contain_text("Layer 13 of 30")
    assert place(chosen(page)) == (-5, 13)
    expect(chosen(page)).to_be_focused()
    expect(page.locator("#direction-layer input[type=number]")).to_have_value("13")

    page.locator(".quality summary").click()
    number = page.locator("#direction-layer input[type=number]")
    number.fill("25")  # later than usual, and still a choice
    number.press("Tab")
    expect(page.locator(".key-figures")).to_contain_text("Layer 25 of 30")
    expect(page.locator(".quality details")).to_have_attribute("open", "")
    page.locator("#direction-position input").click()
    page.get_by_role("option", name="position −1").click()
    expect(page.locator(".key-figures")).to_contain_text("position −1")
    assert place(chosen(page)) == (-1, 25)

    number.fill("0")  # the last token of the template is the same after every text
    number.press("Tab")
    expect(page.locator("#make-note")).to_contain_text("The two sides do not differ")
    assert place(chosen(page)) == (-1, 25)
    expect(number).to_have_value("25")


def test_cancel_keeps_the_texts(tab: Page, tmp_path: Path) -> None:
    page = tab
    rows = "\n".join(f"What does the sea say on day {n}?,What does the law say on day {n}?" for n in range(400))
    give(page, "#upload", tmp_path / "long.csv", "positive,negative\n" + rows)
    expect(page.locator("#make-check .figures")).to_contain_text("400")
    page.locator("#compute").press("Enter")
    expect(page.locator("#cancel-compute")).to_be_focused()
    expect(page.locator("#make-progress")).to_contain_text("Reading text", timeout=PATIENCE)
    page.keyboard.press("Enter")
    expect(page.locator("#make-progress")).to_contain_text("Cancelled. Your texts are still here.")
    expect(page.locator("#compute")).to_be_focused()
    expect(page.locator("#make-check .figures")).to_contain_text("400")


# ---------------------------------------------------------------- files


def test_two_lists_one_after_the_other(tab: Page, tmp_path: Path) -> None:
    page = tab
    give(page, "#upload", tmp_path / "my_sea.txt", "\n".join(f"a wave {n}" for n in range(10)))
    expect(page.locator("#make-check")).to_contain_text("Now give the list that does not show it.")
    give(page, "#upload-negative", tmp_path / "land.txt", "\n".join(f"a road {n}" for n in range(10)))
    expect(page.locator("#make-check .figures")).to_contain_text("8 + 2")
    expect(page.get_by_label("Name it")).to_have_value("My sea")
    expect(page.locator("#make-check .warning")).to_contain_text(["fewer than 16 a side"])


def test_a_bad_file_is_a_sentence_and_the_good_set_stays(tab: Page, tmp_path: Path) -> None:
    page = tab
    use_sample(page)
    give(page, "#upload", tmp_path / "bad.csv", "positive,negative\nsea,\n")
    expect(page.get_by_role("alert").filter(has_text="Row 2 of bad.csv has no negative text")).to_be_visible()
    expect(page.locator("#make-check .figures")).to_contain_text("32 + 8")
    page.locator("#upload-direction input[type=file]").set_input_files(tmp_path / "bad.csv")
    expect(page.locator("#make-note")).to_contain_text("bad.csv is not a direction file")


def test_a_text_from_a_file_is_never_markup(tab: Page, tmp_path: Path) -> None:
    page = tab
    rows = "\n".join(f'"{EVIL} ${{window.taken = 2}} {{{{value}}}} {n}",plain {n}' for n in range(4))
    give(page, "#upload", tmp_path / "<b>.csv", "positive,negative\n" + rows)
    expect(page.locator("#make-check .pairs")).to_contain_text(f"{EVIL} ${{window.taken = 2}} {{{{value}}}} 0")
    page.get_by_label("Name it").fill(EVIL)
    find(page)
    expect(page.locator("#quality-card h2")).to_have_text(EVIL)
    assert page.locator("#make-check img, #quality-card img").count() == 0
    assert page.evaluate("window.taken") is None


# ---------------------------------------------------------------- looks


@pytest.mark.parametrize("width", [390, 320])
def test_the_tab_fits_a_phone(open_page: Callable[..., Page], width: int) -> None:
    page = open_page(width=width, height=844, short=False)
    open_tab(page)
    give_questions(page)
    find(page)
    assert sideways(page) <= 0
    box = page.locator(".squares-box").bounding_box()
    ring = chosen(page).bounding_box()
    assert box is not None
    assert ring is not None
    assert box["x"] <= ring["x"] <= box["x"] + box["width"]  # scrolled to where the chosen square shows
