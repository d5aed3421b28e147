"""What a visitor takes along: a link, the conversation as Markdown, the run as JSON, the plot as a picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit
from xml.etree import ElementTree

from driving import (
    PANES,
    answers,
    ask,
    choose_columns,
    choose_idea,
    pane_names,
    questions,
    read_run,
    replies,
    set_number,
    set_strength,
    take,
    wait_for_columns,
    wait_for_example,
)
from PIL import Image
from playwright.sync_api import Page, expect

from steering.ui.chat_handlers import NOT_HERE

OpenPage = Callable[..., Page]
QUESTION = "What lies at the bottom of the sea?"
SECRET = "My name is Ada Xylophone, and it is nobody's business."


def clipboard(page: Page) -> str:
    text: str = page.evaluate("navigator.clipboard.readText()")
    return text


def save(page: Page, button: str, folder: Path) -> Path:
    with page.expect_download() as download:
        take(page, button)
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


def test_link_in_a_fresh_browser(page: Page, open_page: OpenPage) -> None:
    choose_idea(page, "Pirate")
    choose_columns(page, "Random direction")
    wait_for_columns(page, 4)
    ask(page, SECRET)
    set_strength(page, 0.7)
    set_number(page, "Seed", 7)
    page.locator("#message textarea").fill(QUESTION)
    page.locator("#share").click()
    expect(page.locator("#spoken")).to_have_text("Copied")
    link = urlsplit(clipboard(page))
    assert f"{link.scheme}://{link.netloc}{link.path}" == page.url
    linked = {key: values[0] for key, values in parse_qs(link.query).items()}
    assert linked == {"idea": "pirate", "c": "0.7", "seed": "7", "q": QUESTION, "beside": "random"}

    fresh = open_page(link=link.query)
    wait_for_example(fresh)
    expect(fresh.locator("#message textarea")).to_have_value(QUESTION)
    assert fresh.locator("#strength input[type=number]").input_value() == "0.7"
    assert fresh.locator("#seed input").input_value() == "7"
    assert fresh.get_by_role("radio", name="Pirate").is_checked()
    assert fresh.get_by_role("radio", name="Random direction").is_checked()
    wait_for_columns(fresh, 4)
    assert pane_names(fresh) == ["As it is", "Pirate taken out", "Pirate turned up", "A random direction"]
    assert "Xylophone" not in fresh.locator("body").inner_text()
    # What was set there gives the same answers here.
    page.locator("#clear").click()
    assert ask(fresh, QUESTION) == ask(page, QUESTION)


def test_nonsense_in_the_address_does_no_harm(open_page: OpenPage) -> None:
    nonsense = {
        "idea": "<script>window.broken=1</script>",
        "c": "nan",
        "seed": "-1",
        "model": "../../../etc/passwd",
        "q": '<img src=x onerror="window.broken=1"> {{value}} ${window.broken=1}',
        "beside": "everything",
        "other": "constructor",
        "oc": "1e999",
        "t": "hot",
        "__proto__": "x",
    }
    open_page()  # so that the model is there, and nothing has to be said of it
    page = open_page(link=urlencode(nonsense))
    expect(page.locator("#status-words")).to_have_text(NOT_HERE.format("Poetic"))
    assert len(answers(page)) == 3
    expect(page.locator("#message textarea")).to_have_value(nonsense["q"])
    assert page.evaluate("window.broken") is None
    assert page.get_by_role("radio", name="Poetic").is_checked()
    assert pane_names(page) == ["As it is", "Poetic taken out", "Poetic turned up"]
    assert page.locator("#seed input").input_value() == "0"
    assert all(ask(page, QUESTION))
    assert page.evaluate("window.broken") is None


def test_markdown_json_and_pictures(page: Page, tmp_path: Path) -> None:
    ask(page, QUESTION)
    ask(page, "And *above* it?")
    take(page, "#copy-markdown")
    expect(page.locator("#spoken")).to_have_text("Copied")
    markdown = clipboard(page)
    assert f"**{QUESTION}**" in markdown
    assert "**And \\*above\\* it?**" in markdown
    for name, pane in zip(pane_names(page), PANES, strict=True):
        assert markdown.count(f"*{name}*") == 2
        for reply in replies(page, pane):
            assert f"> {reply.strip().splitlines()[0]}".rstrip() in markdown

    run = read_run(page)
    assert run["model"]["name"] == "bundled"
    assert run["idea"] == "Poetic"
    assert [turn["question"] for turn in run["turns"]] == questions(page, "baseline")
    last = run["turns"][-1]
    assert [answer["text"].strip() for answer in last["answers"]] == [text.strip() for text in answers(page)]
    assert last["settings"]["max_new_tokens"] == 24
    for answer in last["answers"]:
        assert "".join(token["text"] for token in answer["tokens"]).strip() == answer["text"].strip()
        assert all(len(token["cosines"]) == last["layers"] for token in answer["tokens"])
        assert all(len(token["likeliest_next"]) == 5 for token in answer["tokens"])

    with Image.open(save(page, "#save-png", tmp_path)) as picture:
        assert picture.format == "PNG"
        assert picture.width >= 1000
        assert len(picture.convert("RGB").getcolors(1 << 24) or []) > 20
    picture_text = save(page, "#save-svg", tmp_path).read_text(encoding="utf-8")
    assert "<svg" in picture_text[:200]
    assert "How much of the idea is inside, layer by layer" in picture_text
    assert ElementTree.fromstring(picture_text).tag == "{http://www.w3.org/2000/svg}svg"
