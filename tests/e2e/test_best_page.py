"""“Find the best” as a visitor uses it, on the real page with the bundled model."""

from __future__ import annotations

import csv
import json
import re
from itertools import pairwise
from pathlib import Path

import pytest
from driving import PATIENCE, answers, begin, sideways, status, wait_for_state
from playwright.sync_api import Page, expect

from steering.contrast import PRESETS, ContrastSet
from steering.directions import Direction
from steering.finding import scores_folder

QUESTION = "How do I boil an egg?"
PAIRS = 10  # few, so that all of it takes about a minute
STAGES = ("Reading the texts", "Trying candidate", "Measuring the strength", "Holding it against controls")
# Notes in the page itself when the words below the bar change, and how far the map is; the page goes on while this test
# waits.
WATCH = """() => {
  const words = window.wordsSeen = [], counts = window.countsSeen = [];
  setInterval(() => {
    const now = document.querySelector('#make-progress')?.innerText ?? '';
    if (now && now !== words.at(-1)?.words) words.push({ words: now, at: performance.now() / 1000 });
    const count = document.querySelector('#quality-card h3')?.innerText.match(/^([0-9]+) of 30 places decided/);
    if (count && Number(count[1]) !== counts.at(-1)) counts.push(Number(count[1]));
  }, 50);
}"""


def give(page: Page, path: Path) -> None:
    """Give a file of this test's own texts, none of which was scored before."""
    identity = ContrastSet.load(path).sha256[:12]
    for known in scores_folder().glob(f"*-{identity}-*.jsonl"):
        known.unlink()
    page.locator("#upload input[type=file]").set_input_files(path)


def pirate_csv(path: Path) -> Path:
    """The first pairs of the pirate preset, as a file that someone might bring."""
    rows = [json.loads(line) for line in (PRESETS / "pirate.jsonl").read_text(encoding="utf-8").splitlines()]
    columns = ["instruction", "response", "label", "pair"]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows[: 2 * PAIRS])
    return path


@pytest.fixture
def tab(page: Page) -> Page:
    page.get_by_role("tab", name="Make a direction").click()
    return page


def start(page: Page) -> None:
    page.locator("#find-best").click()
    expect(page.locator("#cancel-compute")).to_be_visible()


def wait_until_done(page: Page) -> None:
    """Wait until the work has ended and the buttons are back."""
    page.wait_for_function(
        "document.querySelector('#find-best') && !document.querySelector('#cancel-compute')", timeout=4 * PATIENCE
    )


def test_from_texts_to_three_answers(tab: Page, tmp_path: Path) -> None:
    page = tab
    give(page, pirate_csv(tmp_path / "my-pirate.csv"))
    expect(page.locator("#make-check .figures")).to_contain_text("8 + 2")
    page.evaluate(WATCH)
    start(page)
    wait_until_done(page)
    counts = page.evaluate("window.countsSeen")
    assert counts == sorted(counts)
    assert len(counts) > 2
    assert counts[0] < 15
    if page.locator("#relax").is_visible():
        expect(page.locator("#make-progress")).to_contain_text("None passes.")
        expect(page.locator("#relax")).to_have_text(
            re.compile(r"^\s*(Allow KL up to [\d.]+ instead of 0\.1|Ask for less)")
        )
        page.locator("#relax").click()
        expect(page.locator("#cancel-compute")).to_be_visible()
        wait_until_done(page)
    expect(page.locator("#make-progress")).to_contain_text("Found.")
    check_words(page.evaluate("window.wordsSeen"))
    check_card(page, tmp_path)
    page.locator("#use-direction").click()
    expect(page.locator("#pane-added .pane-name")).to_have_text("Your idea turned up")
    begin(page, QUESTION)
    wait_for_state(page, "idle")
    plain, taken_out, turned_up = answers(page)
    assert plain
    assert taken_out
    assert turned_up != plain
    assert status(page).startswith("Done.")


def check_words(seen: list[dict[str, float | str]]) -> None:
    """All stages are named in their order, and the words do not stand still."""
    during = [line for line in seen if str(line["words"]).startswith(STAGES)]
    named = [next(stage for stage in STAGES if str(line["words"]).startswith(stage)) for line in during]
    assert list(dict.fromkeys(named)) == list(STAGES)
    times = [float(line["at"]) for line in during]
    gaps = [later - earlier for earlier, later in pairwise(times)]
    # A change a second, but for a second that a busy machine lets pass unseen here and there.
    assert len(gaps) > sum(gaps)
    assert sum(gap for gap in gaps if gap > 2.0) < 0.1 * sum(gaps), sorted(gaps)[-5:]


def check_card(page: Page, folder: Path) -> None:
    card = page.locator("#quality-card")
    expect(card.locator("h2")).to_have_text("My pirate")
    expect(card.locator(".check")).to_have_count(3)
    expect(card).not_to_contain_text("not measured here")
    expect(card.locator(".key-figures")).to_contain_text("the sweet spot when turned up")
    expect(card.locator(".squares td.chosen button")).to_have_attribute("aria-label", re.compile("chosen by the rule"))
    with page.expect_download() as download:
        page.locator("#download-direction").click()
    download.value.save_as(folder / "my-pirate.safetensors")
    direction = Direction.load(folder / "my-pirate.safetensors")
    assert {"scores", "limits", "strength", "trust"} <= direction.card.keys()
    n_controls = sum(direction.card["trust"][kind]["bypass"]["n"] for kind in ("random", "shuffled"))
    assert n_controls > 20  # of halvings with other labels there are fewer than 20 in so few texts
    expect(card.locator("summary").filter(has_text=f"held against {n_controls} controls")).to_be_visible()
    if "relaxed" in direction.card:
        expect(card.locator(".warning").filter(has_text=direction.card["relaxed"])).to_be_visible()


def test_cancel_keeps_the_map_and_frees_the_model(tab: Page, tmp_path: Path) -> None:
    page = tab
    rows = [f"What does the sea say on day {n}?,What does the law say on day {n}?" for n in range(40)]
    path = tmp_path / "sea-and-law.csv"
    path.write_text("\n".join(["positive,negative", *rows]), encoding="utf-8")
    give(page, path)
    expect(page.locator("#make-check .figures")).to_contain_text("32 + 8")
    start(page)
    expect(page.locator(".squares td:not(.empty) button").first).to_be_attached(timeout=PATIENCE)
    page.locator("#cancel-compute").click()
    wait_until_done(page)
    expect(page.locator("#make-progress")).to_contain_text("Cancelled. What was found so far stays.")
    assert page.locator(".squares td:not(.empty) button").count() > 0
    assert sideways(page) <= 0
    # The model is free: the chat answers at once.
    page.get_by_role("tab", name="Chat", exact=True).click()
    begin(page, QUESTION)
    wait_for_state(page, "idle")
    assert all(answers(page))
