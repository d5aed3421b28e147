"""The “Take it home” tab as a visitor uses it, on the real page with the bundled model."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from axe_playwright_python.base import AXE_SCRIPT
from driving import PATIENCE, ask, choose_idea, sideways, tab_to
from playwright.sync_api import Page, expect
from test_accessibility import VIOLATIONS

from benchmarks.running_app import WITHOUT_RATES, Server, start_server
from steering.exchange import import_direction

OpenPage = Callable[..., Page]
QUESTION = "Why is the sky blue?"


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home") / "exports"


@pytest.fixture(scope="module")
def home_server(tmp_path_factory: pytest.TempPathFactory, exports: Path) -> Iterator[Server]:
    """A server whose exports go into a folder of this module's."""
    log = tmp_path_factory.mktemp("home-server") / "app.log"
    running = start_server(log, "--exports", str(exports), *WITHOUT_RATES)
    yield running
    running.stop()


def open_tab(page: Page) -> None:
    page.get_by_role("tab", name="Take it home").click()
    expect(page.locator("#home-download")).to_be_visible()


@pytest.fixture
def tab(open_page: OpenPage, home_server: Server) -> Page:
    page = open_page(at=home_server)
    open_tab(page)
    return page


def choose(page: Page, group: str, label: str) -> None:
    page.locator(f"{group} label").get_by_text(label, exact=True).click()


def download(page: Page, kind: str, name: str, folder: Path) -> Path:
    """Choose a kind of file and download it."""
    choose(page, "#home-kind", kind)
    expect(page.locator("#home-download")).to_have_text(f"Download {name}")
    with page.expect_download() as got:
        page.locator("#home-download").click()
    assert got.value.suggested_filename == name
    got.value.save_as(folder / name)
    return folder / name


def write(page: Page, name: str) -> None:
    page.get_by_label("Name of its folder").fill(name)
    page.locator("#home-write").click()


# ---------------------------------------------------------------- files


def test_a_control_vector_and_a_json_that_comes_back_and_is_chatted_with(tab: Page, tmp_path: Path) -> None:
    page = tab
    expect(page.locator("#home-what")).to_contain_text("“Poetic” leaves the playground")
    vector = import_direction(download(page, "llama.cpp", "poetic.gguf", tmp_path)).direction
    expect(page.locator("#home-file")).to_contain_text("llama.cpp adds it after block")
    path = download(page, "JSON", "poetic.json", tmp_path)
    expect(page.locator("#home-file")).to_contain_text("holds all of the direction")
    document = json.loads(path.read_text(encoding="utf-8"))
    assert document["layer"] == vector.layer
    path.write_text(json.dumps(document | {"name": "Poetic again"}), encoding="utf-8")

    page.locator("#home-upload input[type=file]").set_input_files(path)
    expect(page.locator("#home-brought")).to_contain_text("“Poetic again” is your own idea in the chat now.")
    expect(page.locator("#home-what")).to_contain_text("“Poetic again” leaves the playground")
    expect(page.get_by_label("Name of its folder")).to_have_value("poetic-again-taken-out")
    page.get_by_role("tab", name="Chat").click()
    expect(page.locator("#idea label.selected")).to_have_text("Poetic again")
    own = ask(page, QUESTION)
    assert len(set(own)) == 3
    choose_idea(page, "Poetic")
    assert ask(page, QUESTION) == own, "what came back steers as what left"


def test_a_file_that_is_none_says_so_and_the_idea_stays(tab: Page, tmp_path: Path) -> None:
    page = tab
    (tmp_path / "broken.gguf").write_bytes(b"nothing")
    page.locator("#home-upload input[type=file]").set_input_files(tmp_path / "broken.gguf")
    expect(page.locator("#home-brought [role=alert]")).to_contain_text("broken.gguf")
    expect(page.locator("#home-what")).to_contain_text("“Poetic” leaves")


def test_opened_before_the_model_is_there_it_fills_itself(
    open_page: OpenPage, own_server: Callable[..., Server]
) -> None:
    page = open_page(at=own_server("--take-home", "on"), ready=False)
    open_tab(page)
    expect(page.locator("#home-download")).to_have_text("Download poetic.safetensors", timeout=PATIENCE)
    expect(page.locator("#home-download")).to_be_enabled()
    expect(page.locator("#home-what")).to_contain_text("at layer 17 of 30")


# ---------------------------------------------------------------- models


def test_an_ablated_model_is_written_and_held_against_what_was_seen(tab: Page, exports: Path) -> None:
    page = tab
    expect(page.get_by_label("Name of its folder")).to_have_value("poetic-taken-out")
    page.locator("#home-write").click()
    expect(page.locator("#home-outcome")).to_contain_text("step 1 of 3", timeout=PATIENCE)
    expect(page.locator("#home-outcome")).to_contain_text("Comparing the answers", timeout=PATIENCE)
    outcome = page.locator("#home-outcome .quality")
    expect(outcome).to_contain_text("of 32 greedy answers", timeout=PATIENCE)
    expect(outcome).to_contain_text("Held against what you saw")
    expect(outcome).to_contain_text(str(exports / "poetic-taken-out"))
    expect(outcome.locator("pre")).to_contain_text("AutoModelForCausalLM.from_pretrained(folder)")
    assert (exports / "poetic-taken-out" / "model.safetensors").is_file()
    expect(page.get_by_label("Name of its folder")).to_have_value("poetic-taken-out-2")

    write(page, "poetic-taken-out")
    expect(page.locator("#home-outcome [role=alert]")).to_contain_text("nothing was overwritten")
    write(page, "../elsewhere")
    expect(page.locator("#home-outcome [role=alert]")).to_contain_text("has a slash in it")
    assert [path.name for path in exports.iterdir()] == ["poetic-taken-out"]

    page.get_by_label("Repository").fill("me/poetic")
    page.locator("#home-look").click()
    expect(page.locator("#home-push-note")).to_contain_text("model.safetensors")
    expect(page.locator("#home-push-note")).to_contain_text("Nothing was sent yet")


def test_cancelling_by_keyboard_leaves_no_folder(tab: Page, exports: Path) -> None:
    page = tab
    before = sorted(path.name for path in exports.iterdir()) if exports.exists() else []
    page.get_by_label("Name of its folder").fill("cancelled")
    page.locator("#home-write").press("Enter")
    expect(page.locator("#home-cancel")).to_be_focused()
    # Once weights lie on the disk. The step of checking them can be over between two looks at the page.
    expect(page.locator("#home-outcome")).to_contain_text(re.compile("step [23] of 3"), timeout=PATIENCE)
    page.keyboard.press("Enter")
    expect(page.locator("#home-outcome")).to_contain_text("Cancelled. Nothing was left behind.", timeout=PATIENCE)
    expect(page.locator("#home-write")).to_be_focused()
    assert sorted(path.name for path in exports.iterdir()) == before


def test_a_chat_goes_on_while_a_model_is_written(tab: Page) -> None:
    page = tab
    write(page, "beside-a-chat")
    expect(page.locator("#home-outcome")).to_contain_text("step 1 of 3", timeout=PATIENCE)
    page.get_by_role("tab", name="Chat").click()
    assert all(ask(page, QUESTION))
    page.get_by_role("tab", name="Take it home").click()
    expect(page.locator("#home-cancel")).to_be_visible()  # it is not at its end yet
    page.locator("#home-cancel").click()
    expect(page.locator("#home-outcome")).to_contain_text("Cancelled.", timeout=PATIENCE)


def test_all_of_it_by_keyboard(tab: Page) -> None:
    page = tab
    page.get_by_role("tab", name="Take it home").focus()
    for stop in (
        "#home-kind input",
        "#home-download",
        "#home-upload button",
        "#home-form input",
        "#home-folder :is(input, textarea)",
        "#home-write",
        "#home-push-what input",
        "#home-repository :is(input, textarea)",
        "#home-public input",
        "#home-look",
    ):
        tab_to(page, stop)
    page.locator("#home-kind input").first.focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#home-download")).to_have_text("Download poetic.gguf")


# ---------------------------------------------------------------- where it is off, and how it looks


def test_where_it_is_off_the_files_stay_and_a_sentence_says_why(
    open_page: OpenPage, own_server: Callable[..., Server], tmp_path: Path
) -> None:
    page = open_page(at=own_server("--take-home", "off", "--exports", str(tmp_path / "exports")))
    open_tab(page)
    expect(page.locator("#home-off")).to_contain_text("where the playground runs on your own machine")
    expect(page.locator("#home-off")).to_contain_text("python -m steering orthogonalize")
    assert page.locator("#home-write, #home-look, #home-form").count() == 0
    download(page, "JSON", "poetic.json", tmp_path)
    assert not (tmp_path / "exports").exists()
    page.evaluate(AXE_SCRIPT)
    assert page.evaluate(VIOLATIONS) == []


@pytest.mark.parametrize(("width", "theme"), [(1360, "light"), (390, "dark"), (320, "light")])
def test_it_can_be_used_by_everybody(open_page: OpenPage, home_server: Server, width: int, theme: str) -> None:
    page = open_page(at=home_server, width=width)
    if theme == "dark":
        page.locator("#theme").click()
    open_tab(page)
    page.evaluate(AXE_SCRIPT)
    found = page.evaluate(VIOLATIONS)
    choose(page, "#home-form", "Taken out, as an adapter")
    write(page, f"looked-at-{width}")
    expect(page.locator("#home-cancel")).to_be_visible()
    expect(page.locator("#home-outcome [role=progressbar]")).to_be_visible(timeout=PATIENCE)
    found += page.evaluate(VIOLATIONS)
    page.locator("#home-cancel").click()
    expect(page.locator("#home-write")).to_be_visible(timeout=PATIENCE)
    write(page, "../x")
    expect(page.locator("#home-outcome [role=alert]")).to_be_visible()
    page.get_by_label("Repository").fill("me/poetic")
    page.locator("#home-look").click()
    expect(page.locator(".home-files")).to_be_visible()
    found += page.evaluate(VIOLATIONS)
    assert not found, "\n".join(found)
    assert sideways(page) <= 0


def test_twice_as_large_text_fits(open_page: OpenPage, home_server: Server) -> None:
    page = open_page(at=home_server, width=680, height=450)  # what 200 % zoom leaves of 1360 by 900
    open_tab(page)
    assert sideways(page) <= 0
    cut = page.locator("#home button:visible").evaluate_all(
        "all => all.filter((one) => one.scrollWidth > one.clientWidth + 1).map((one) => one.id)"
    )
    assert cut == []
