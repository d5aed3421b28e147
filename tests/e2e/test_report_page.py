"""A report opened in a browser: it asks nobody for anything, and fits a desk and a phone."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser

from steering.cli import main


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "poetic.html"
    assert main(["report", "poetic", "--quiet", "--out", str(path)]) == 0
    return path


@pytest.mark.parametrize(("width", "scheme"), [(1100, "light"), (390, "dark")])
def test_a_report_in_a_browser(browser: Browser, file: Path, width: int, scheme: str) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
    asked: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.goto(file.as_uri())
    assert "python -m steering report poetic --model bundled" in page.locator("pre").inner_text()
    assert page.title() == "Poetic · steering report"
    assert page.locator(".three > div").count() == 9
    assert page.locator("svg").count() == 3
    assert page.locator("rect.framed").count() == 3
    assert page.evaluate("document.documentElement.scrollWidth") == width
    with page.expect_download() as download:
        page.get_by_text("These figures as CSV").nth(1).click()
    assert download.value.suggested_filename == "profile.csv"
    assert [url for url in asked if not url.startswith("data:")] == [file.as_uri()]
    assert complaints == []
    page.close()
