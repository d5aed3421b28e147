"""The “Explain” tab as a visitor uses it, on the real page with the bundled model."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from axe_playwright_python.base import AXE_SCRIPT
from driving import PATIENCE, ask, sideways, tab_to
from playwright.sync_api import Page, expect
from test_accessibility import VIOLATIONS

from steering.contrast import PRESETS
from steering.directions import Direction

OpenPage = Callable[..., Page]
HEAD = re.compile(r"Layer (\d+), head (\d+)")


def open_tab(page: Page) -> None:
    page.get_by_role("tab", name="Explain").click()
    expect(page.locator("#explain-run")).to_be_visible()


def wait_for_map(page: Page) -> None:
    expect(page.locator("#explain-heads table.squares")).to_be_visible(timeout=4 * PATIENCE)
    expect(page.locator("#explain-run")).to_be_visible(timeout=4 * PATIENCE)


def table(page: Page, place: str) -> list[dict[str, str]]:
    """The CSV file that the first link of a card downloads."""
    with page.expect_download() as got:
        page.locator(f"{place} a[download]").first.click()
    text = Path(got.value.path()).read_text(encoding="utf-8")
    return list(csv.DictReader(io.StringIO(text)))


def top_heads(page: Page) -> list[tuple[int, int]]:
    found = [HEAD.search(text) for text in page.locator(".explain-top button").all_inner_texts()]
    return [(int(one[1]), int(one[2])) for one in found if one]


def violations(page: Page) -> list[str]:
    page.evaluate(AXE_SCRIPT)
    found: list[str] = page.evaluate(VIOLATIONS)
    return found


def test_which_heads_write_it_where_they_look_and_what_a_suffix_changes(open_page: OpenPage) -> None:
    """The whole way, by pressing only; a chat in the middle goes on."""
    page = open_page()
    open_tab(page)
    expect(page.locator("#explain-what")).to_contain_text("“Poetic” inside SmolLM2-135M-Instruct")
    page.locator("#explain-run").click()
    expect(page.locator("#explain-progress [role=progressbar]")).to_be_visible(timeout=PATIENCE)
    page.get_by_role("tab", name="Chat").click()
    assert len(set(ask(page, "Why is the sea salty?"))) == 3
    page.get_by_role("tab", name="Explain").click()
    wait_for_map(page)

    expect(page.locator("#explain-where")).to_contain_text("texts with the idea stand at +0.2")
    profile = table(page, "#explain-where")
    assert {row["group"] for row in profile} >= {"with the idea", "without it", "your prompt, as it is"}
    assert len({row["layer"] for row in profile}) == 30
    assert {row["n"] for row in profile if row["group"] == "with the idea"} == {"32"}

    written = {
        (int(row["layer"]), int(row["part"].removeprefix("head "))): float(row["along the direction"])
        for row in table(page, "#explain-heads")
        if row["part"].startswith("head")
    }
    strongest = sorted(written, key=lambda head: -abs(written[head]))[:3]
    assert top_heads(page) == strongest
    for layer, head in strongest:
        page.locator(".explain-top button").get_by_text(f"Layer {layer}, head {head}").click()
        expect(page.locator("#explain-looks h2")).to_have_text(f"Where layer {layer}, head {head} looks")
        expect(page.locator("#explain-looks [role=status]")).to_contain_text("to the instruction")
    weights = [float(row["attention"]) for row in table(page, "#explain-looks")]
    assert sum(weights) == pytest.approx(1, abs=0.02)
    assert page.locator(".explain-shaded span").count() == len(weights)
    assert "Why is the sky blue?" in page.locator(".explain-shaded").inner_text()

    expect(page.get_by_label("The suffix")).to_have_value(re.compile("poetic language"))
    page.locator("#explain-suffix-run").click()
    found = page.locator("#explain-suffix-found")
    expect(found.locator("[role=status]")).to_contain_text("That is more than random text", timeout=4 * PATIENCE)
    assert found.locator("tbody tr th").filter(has_text="wrote").count() == 3
    expect(found).to_contain_text("looks to the suffix")
    assert len({row["prompt"] for row in table(page, "#explain-suffix-found")}) == 22
    expect(page.locator("#explain-speaks")).to_contain_text("Most like “")
    assert "Why is the sea salty?" not in page.locator("#explain").inner_text()
    can_be_used_by_everybody(page)


def can_be_used_by_everybody(page: Page) -> None:
    """What was found, on a desk, on a dark phone, in the narrowest window, and with text twice as large."""
    for place in page.locator("#explain summary").all():
        place.click()
    page.get_by_label("The base model").fill("/nowhere")
    page.locator("#explain-base-run").click()
    expect(page.locator("#explain-base-progress [role=alert]")).to_be_visible(timeout=PATIENCE)
    found = violations(page)
    page.locator("#theme").click()
    for width, height in ((390, 844), (320, 700), (680, 450)):  # 200 % zoom leaves the last of 1360 by 900
        page.set_viewport_size({"width": width, "height": height})
        expect(page.locator("#explain-where .explain-narrow").first).to_be_visible()
        found += [f"{width} px: {one}" for one in violations(page)]
        assert sideways(page) <= 0, f"{width} px"
    assert not found, "\n".join(found)
    cut = page.locator("#explain button:visible").evaluate_all(
        "all => all.filter((one) => one.scrollWidth > one.clientWidth + 1).map((one) => one.outerHTML.slice(0, 90))"
    )
    assert cut == []


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A direction whose texts nobody knows, so that only the prompt is read."""
    known = Direction.load(PRESETS / "directions" / "poetic.safetensors")
    path = tmp_path_factory.mktemp("quick") / "quick.safetensors"
    replace(known, name="Quick", card=known.card | {"data_sha256": "unknown"}).save(path)
    return path


def use(page: Page, path: Path) -> None:
    """Make a direction from a file the idea of the chat, and go to the tab."""
    page.get_by_role("tab", name="Make a direction").click()
    page.locator("#upload-direction input[type=file]").set_input_files(path)
    page.locator("#use-direction").click()
    expect(page.locator("#idea label.selected")).to_have_text("Quick")
    open_tab(page)
    expect(page.locator("#explain-what")).to_contain_text("“Quick” inside")


def test_all_of_it_by_keyboard_and_what_is_wrong_is_said_where_it_was_asked(open_page: OpenPage, quick: Path) -> None:
    page = open_page()
    use(page, quick)
    page.get_by_role("tab", name="Explain").focus()
    tab_to(page, "#explain-text textarea")
    page.keyboard.press("Control+A")
    page.keyboard.press("Delete")
    page.keyboard.press("Enter")
    expect(page.locator("#explain-progress [role=alert]")).to_contain_text("There is no prompt to look at")
    page.locator("#explain-text textarea").focus()
    page.keyboard.type("How do I bake bread?")
    tab_to(page, "#explain-run")
    page.keyboard.press("Enter")
    wait_for_map(page)
    expect(page.locator("#explain-run")).to_be_focused()
    expect(page.locator("#explain-where")).to_contain_text("The texts it was made from are not known here.")

    tab_to(page, ".explain-top button:nth-child(2)")
    page.keyboard.press("Enter")
    layer, head = top_heads(page)[1]
    expect(page.locator("#explain-looks h2")).to_have_text(f"Where layer {layer}, head {head} looks")
    tab_to(page, f".explain-map button[data-layer='{layer}'][data-position='{head}']")
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    expect(page.locator("#explain-looks h2")).to_have_text(f"Where layer 0, head {head} looks")
    expect(page.locator(".explain-map button[aria-pressed=true]")).to_be_focused()
    for _ in range(9):
        page.keyboard.press("ArrowDown")
    page.keyboard.press("Space")
    expect(page.locator("#explain-looks h2")).to_have_text("The MLP of layer 0")
    tab_to(page, "#explain-heads a[download]")
    tab_to(page, "#explain-heads summary")
    page.keyboard.press("Enter")
    expect(page.locator("#explain-heads details")).to_contain_text("Direct feature attribution")
    for stop in ("#explain-suffix-text textarea", "#explain-suffix-run", "#explain-base-text textarea"):
        tab_to(page, stop)
    page.keyboard.type("nobody/there")
    page.keyboard.press("Enter")
    expect(page.locator("#explain-base-progress [role=alert]")).to_contain_text("nobody/there", timeout=PATIENCE)
    expect(page.locator("#explain-looks h2")).to_have_text("The MLP of layer 0")  # nothing was lost


def test_cancelling_and_a_suffix_longer_than_what_is_looked_at(open_page: OpenPage, quick: Path) -> None:
    page = open_page()
    use(page, quick)
    page.locator("#explain-suffix-run").click()
    page.locator("#explain-suffix-progress [role=progressbar]").wait_for(timeout=PATIENCE)
    page.locator("#explain-suffix-cancel").click()
    expect(page.locator("#explain-suffix-progress")).to_contain_text("Cancelled.", timeout=PATIENCE)
    expect(page.locator("#explain-suffix-run")).to_be_visible()
    page.get_by_label("The suffix").fill("5 x " * 499)
    page.locator("#explain-suffix-run").click()
    expect(page.locator("#explain-suffix-progress [role=alert]")).to_contain_text(
        "are looked at here. Shorten it.", timeout=PATIENCE
    )
