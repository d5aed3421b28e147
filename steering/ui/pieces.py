"""Small pieces that several parts of the page are made of."""

from __future__ import annotations

import gradio as gr


def fixed(template: str, elem_id: str) -> gr.HTML:
    """Markup of our own that never changes from the server's side."""
    return gr.HTML(html_template=template, js_on_load=None, apply_default_css=False, elem_id=elem_id)


def action(words: str, elem_id: str) -> gr.Button:
    return gr.Button(words, size="sm", elem_id=elem_id, elem_classes="quiet", min_width=0)
