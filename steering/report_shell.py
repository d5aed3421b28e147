"""What every page that is written as one file shares: its style, its frame, and figures as CSV beside what shows them.

Nothing in such a page asks another machine for anything.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

from steering.explain_tables import as_csv, csv_address
from steering.report_pictures import STYLE as PICTURES

STYLE = """
:root { --bg: #f6f5f2; --surf: #fff; --ink: #1a1c1f; --ink2: #43474d; --ink3: #5d6168; --line: #dedcd6;
  --v0: #59626e; --v1: #1f5fbf; --v2: #b4470f; color-scheme: light dark }
@media (prefers-color-scheme: dark) { :root { --bg: #131416; --surf: #1b1d20; --ink: #eceae5; --ink2: #c6c8cc;
  --ink3: #a0a4ab; --line: #303338; --v0: #aab4c0; --v1: #7db4ff; --v2: #ffab70 } }
* { box-sizing: border-box }
body { margin: 0; background: var(--bg); color: var(--ink); font: 15px/22px Inter, system-ui, sans-serif }
main { max-width: 1080px; margin: 0 auto; padding: 32px 24px 48px }
h1 { margin: 0; font-size: 26px; line-height: 34px }
h2 { margin: 40px 0 4px; font-size: 18px; line-height: 26px }
p { margin: 4px 0; max-width: 72ch; color: var(--ink2) }
.lead { font-size: 16px; line-height: 24px }
.card { margin-top: 12px; padding: 14px; background: var(--surf); border: 1px solid var(--line); border-radius: 6px;
  overflow-x: auto }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums }
th, td { padding: 4px 18px 4px 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line) }
th { font-weight: 600 } tr:last-child > * { border-bottom: 0 }
.three { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 260px), 1fr)); gap: 12px }
.three > div { padding: 10px 12px; background: var(--surf); border: 1px solid var(--line); border-top: 3px solid;
  border-radius: 6px; overflow-wrap: anywhere }
.three h3 { margin: 0 0 4px; font-size: 14px } .three p { white-space: pre-line; color: var(--ink) }
.look0 { border-top-color: var(--v0) !important } .look1 { border-top-color: var(--v1) !important }
.look2 { border-top-color: var(--v2) !important }
.asked { margin: 16px 0 6px; color: var(--ink3) }
code { font: 13px/20px ui-monospace, monospace } pre { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere }
a { color: inherit } .csv { font-size: 13px }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 330px), 1fr)); gap: 12px }
.plots figure { margin: 0; padding: 12px 14px; background: var(--surf); border: 1px solid var(--line);
  border-radius: 6px }
figcaption { font-weight: 600; font-size: 14px } figcaption span { display: block; font-weight: 400; font-size: 13px;
  line-height: 18px; color: var(--ink3) }
.figures td, .figures th { white-space: nowrap } .figures .sure { font-weight: 600; color: var(--ink) }
@media print { .csv { display: none } .card, .three > div { break-inside: avoid } }
"""


def document(title: str, sections: Sequence[str]) -> str:
    """The whole file.

    Args:
        title: as text.
        sections: as HTML.
    """
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width"><meta name="robots" content="noindex">'
        f"<title>{html.escape(title)}</title><style>{STYLE}{PICTURES}</style></head>"
        f"<body><main>{''.join(sections)}</main></body></html>\n"
    )


def with_csv(content: str, file: str, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A picture or table with its figures as a file to take along."""
    link = csv_address(as_csv(head, rows))
    named = f'<a download="{file}" href="{link}">These figures as CSV</a>'
    return f'<div class="card">{content}</div><p class="csv">{named}</p>'
