"""Small pieces that several parts of the page are made of."""

from __future__ import annotations

import gradio as gr


def fixed(template: str, elem_id: str) -> gr.HTML:
    """Markup of our own that never changes from the server's side."""
    return gr.HTML(html_template=template, js_on_load=None, apply_default_css=False, elem_id=elem_id)


def action(words: str, elem_id: str) -> gr.Button:
    return gr.Button(words, size="sm", elem_id=elem_id, elem_classes="quiet", min_width=0)


# Gradio gives every box for files the same name; here each says what it is for. They are mounted anew now and then.
DROPS_SCRIPT = """
const tab = element.closest('.make');
const name = () => {
  for (const box of tab.querySelectorAll('.drop')) {
    const button = box.querySelector('button.upload-container');
    const label = box.querySelector('[data-testid=block-label]');
    if (!button || !label) continue;
    const words = `${label.textContent.trim()}: ${button.innerText.trim()}`;
    if (button.getAttribute('aria-label') !== words) button.setAttribute('aria-label', words);
  }
};
new MutationObserver(name).observe(tab, { childList: true, subtree: true });
name();
"""

# Buttons that start something and the one that cancels it take turns: whoever pressed one with the keyboard goes on at
# the other.
_FOCUS_ON = """(...inputs) => {
  const end = performance.now() + 3000;
  const look = () => {
    const shown = document.getElementById('%s');
    if (shown && !document.getElementById('%s')) {
      if (document.activeElement === document.body) shown.focus();
    } else if (performance.now() < end) requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
  return inputs;
}"""
_FOCUS_BACK = """() => requestAnimationFrame(() => {
  if (document.activeElement === document.body) document.getElementById('%s')?.focus({ preventScroll: true });
})"""


def focus_on(shown: str, gone: str) -> str:
    """For an event's ``js``: once the element ``gone`` is, and ``shown`` stands there, the focus it had goes there."""
    return _FOCUS_ON % (shown, gone)


def focus_back(elem_id: str) -> str:
    """For the ``js`` of what follows an event: a focus that went with its element goes to this one."""
    return _FOCUS_BACK % elem_id
