"""What Gradio remembers of sessions goes when they do."""

from __future__ import annotations

from datetime import datetime, timedelta

import gradio as gr
from fastapi.testclient import TestClient
from gradio.routes import App

from steering.ui.inputs import Page


def used(page: Page, key: str, seconds_ago: float) -> None:
    page.state_holder[key]
    page.state_holder.time_last_used[key] = datetime.now() - timedelta(seconds=seconds_ago)


def test_sessions_that_are_no_visitors_and_unused_are_forgotten() -> None:
    with Page() as page:
        gr.Textbox()
    App.create_app(page)
    page.visitors = {"reads"}
    for key, seconds_ago in (("reads", 900), ("left", 60), ("program at work", 1)):
        used(page, key, seconds_ago)
    page.forget_left()
    assert list(page.state_holder.session_data) == ["reads", "program at work"]
    assert set(page.state_holder.time_last_used) == {"reads", "program at work"}
    page.visitors = ()
    page.forget_left(seconds=0)
    assert not page.state_holder.session_data


def test_a_program_whose_session_was_forgotten_is_answered_all_the_same() -> None:
    with Page() as page:
        box = gr.Textbox()
        gr.Button().click(lambda text: text + "!", box, box, api_name="shout")
    client = TestClient(App.create_app(page))
    for _ in range(2):
        called = client.post("/gradio_api/run/shout", json={"data": ["Hi"], "session_hash": "program"})
        assert called.json()["data"] == ["Hi!"]
        assert "program" in page.state_holder.session_data
        page.forget_left(seconds=0)
        assert "program" not in page.state_holder.session_data
