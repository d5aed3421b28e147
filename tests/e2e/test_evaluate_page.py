"""The “Evaluate” tab on the real page with the bundled model, and the page that the command line writes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from axe_playwright_python.base import AXE_SCRIPT
from driving import arrow_to, sideways, tab_to
from playwright.sync_api import Browser, Page, expect
from test_accessibility import VIOLATIONS

from steering.cli import main

OpenPage = Callable[..., Page]
LONG = 900_000


def test_an_evaluation_by_keyboard(open_page: OpenPage) -> None:
    page = open_page()
    page.get_by_role("tab", name="Evaluate").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#evaluate-what")).to_contain_text("How much “Poetic” changes")
    arrow_to(page, "evaluate-count", "ArrowLeft")
    expect(page.locator("#evaluate-count input").first).to_be_checked()
    tab_to(page, "#evaluate-length input")
    arrow_to(page, "evaluate-which", "ArrowLeft")
    expect(page.locator("#evaluate-which input").first).to_be_checked()
    tab_to(page, "#evaluate-more button")
    page.keyboard.press("Enter")
    expect(page.locator("#evaluate-harmful input")).to_have_value("Those that come along")
    tab_to(page, "#evaluate-edited input")
    page.keyboard.press("Space")
    page.locator("#evaluate-run").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#evaluate-cancel")).to_be_focused()
    expect(page.locator("#evaluate-progress [role=progressbar]")).to_be_visible()
    found = page.locator("#evaluate-found")
    expect(found.locator("figure").first).to_be_visible(timeout=LONG)
    expect(page.locator("#evaluate-run")).to_be_focused()
    assert found.locator("figure svg[role=img]").count() == found.locator("figure").count() >= 12
    expect(found).to_contain_text("Of 4 everyday questions it refuses")
    expect(found).not_to_contain_text("harmful requests it refuses")  # they were not asked
    with page.expect_download() as download:
        found.get_by_text("Download CSV").click()
    assert download.value.suggested_filename == "evaluation.csv"
    found.get_by_text("All figures").click()
    expect(found.locator("table.figures")).to_contain_text("random added")
    expect(found.locator("table.figures")).to_contain_text("orthogonalized")
    expect(found).to_contain_text("taken out of the weights themselves, it refuses")
    for width, scheme in ((1360, "light"), (320, "dark")):
        page.set_viewport_size({"width": width, "height": 800})
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        page.wait_for_function("document.getAnimations().every((one) => one.playState !== 'running')")
        assert sideways(page) <= 0
        page.evaluate(AXE_SCRIPT)
        assert page.evaluate(VIOLATIONS) == []


def test_the_page_of_the_command_line(browser: Browser, tmp_path: Path) -> None:
    size = ["--n", "2", "--tokens", "4", "--text", "none", "--harmful", "none", "--no-orthogonalized", "--quiet"]
    assert main(["evaluate", "--direction", "poetic", *size, "--out", str(tmp_path)]) == 0
    for width, scheme in ((1100, "light"), (390, "dark")):
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
        asked: list[str] = []
        page.on("request", lambda request, asked=asked: asked.append(request.url))
        page.goto((tmp_path / "table.html").as_uri())
        assert page.title() == "Steering evaluation"
        assert page.locator("figure svg").count() >= 10
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert [url for url in asked if not url.startswith("data:")] == [(tmp_path / "table.html").as_uri()]
        page.close()
