"""One HTML page that needs nothing else: figures inlined, style inside, no script, no address outside.

Readable in light and dark: text and tables follow the reader's setting, figures stand on white.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import pandas as pd

from lop_ray.analysis.writing import cells

_STYLE = """
:root { color-scheme: light dark; --text: #1c1f23; --soft: #5b6269; --back: #ffffff; --panel: #f4f5f7;
  --line: #d9dde1; --accent: #0b62a4; --warn: #8a4b00; --warn-back: #fff4e0; }
@media (prefers-color-scheme: dark) { :root { --text: #e4e7ea; --soft: #a2a9b0; --back: #15181c; --panel: #1e2227;
  --line: #363c43; --accent: #7db8ec; --warn: #ffcf87; --warn-back: #33270f; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 24px 20px 60px; }
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 20px; margin: 40px 0 8px; padding-top: 10px;
  border-top: 1px solid var(--line); } h3 { font-size: 16px; margin: 26px 0 4px; }
p { margin: 6px 0; max-width: 95ch; } p.soft, figcaption { color: var(--soft); font-size: 13.5px; }
a { color: var(--accent); } nav { margin: 14px 0; } nav a { margin-right: 14px; white-space: nowrap; }
.note { background: var(--warn-back); color: var(--warn); padding: 8px 12px; border-radius: 6px; margin: 12px 0; }
figure { margin: 10px 0; } figcaption { max-width: 95ch; margin-top: 4px; }
figure .plate { background: #ffffff; border: 1px solid var(--line); border-radius: 6px; padding: 10px;
  display: inline-block; max-width: 100%; } figure img { display: block; max-width: 100%; height: auto; }
.scroll { overflow-x: auto; margin: 8px 0; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 10px; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
th { background: var(--panel); font-weight: 600; } td.number, th.number { text-align: right; white-space: nowrap; }
td.text { max-width: 60ch; overflow-wrap: break-word; }
details { margin: 10px 0; } summary { cursor: pointer; color: var(--accent); }
ul { margin: 6px 0; padding-left: 22px; }
@media print { body { font-size: 12px; } nav { display: none; } }
"""


def page(title: str, body: Iterable[str]) -> str:
    """The whole page.

    Args:
        title: Its title, plain text.
        body: Pieces of HTML, from the functions of this module.

    Returns:
        HTML.
    """
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}<style>{_STYLE}</style></head>\n<body><main>\n'
        + "\n".join(body)
        + "\n</main></body></html>\n"
    )


def heading(text: str, level: int, anchor: str = "") -> str:
    """A heading, which `contents` can point to by its anchor."""
    place = f' id="{escape(anchor)}"' if anchor else ""
    return f"<h{level}{place}>{escape(text)}</h{level}>"


def contents(anchors: Mapping[str, str]) -> str:
    """Links to headings: texts by anchor."""
    links = "".join(f'<a href="#{escape(anchor)}">{escape(text)}</a> ' for anchor, text in anchors.items())
    return f"<nav>{links}</nav>"


def paragraph(text: str, *, soft: bool = False) -> str:
    """Plain text."""
    return f'<p class="soft">{escape(text)}</p>' if soft else f"<p>{escape(text)}</p>"


def note(text: str) -> str:
    """Something that the reader must know before anything else."""
    return f'<p class="note">{escape(text)}</p>'


def items(texts: Iterable[str]) -> str:
    """A list of plain texts."""
    return f"<ul>{''.join(f'<li>{escape(text)}</li>' for text in texts)}</ul>"


def picture(png: bytes, width_in: float, alternative: str, caption: str) -> str:
    """A figure, inlined.

    Args:
        png: The image.
        width_in: Its width in inches; 96 points of the screen each, at most the page's width.
        alternative: What it shows, for readers who can't see it.
        caption: What stands below.

    Returns:
        HTML.
    """
    data = base64.b64encode(png).decode("ascii")
    source = f"data:image/png;base64,{data}"
    image = f'<img src="{source}" width="{round(96 * width_in)}" alt="{escape(alternative)}">'
    return f'<figure><div class="plate">{image}</div><figcaption>{escape(caption)}</figcaption></figure>'


def html_table(table: pd.DataFrame) -> str:
    """A table that scrolls by itself when it is wider than the page."""
    header, rows, numeric = cells(table)
    classes = ["number" if right else "text" for right in numeric]
    top = "".join(f'<th class="{kind}">{escape(name)}</th>' for name, kind in zip(header, classes, strict=True))
    lines = [
        "".join(f'<td class="{kind}">{escape(cell)}</td>' for cell, kind in zip(row, classes, strict=True))
        for row in rows
    ]
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def settings_table(settings: Mapping[str, Any]) -> str:
    """Keys and values of a configuration."""
    rows = [(key, ", ".join(map(str, value)) if isinstance(value, list) else value) for key, value in settings.items()]
    return html_table(pd.DataFrame([(key, str(value)) for key, value in rows], columns=["key", "value"]))


def folded(title: str, content: Sequence[str]) -> str:
    """Content that opens on a click."""
    return f"<details><summary>{escape(title)}</summary>{''.join(content)}</details>"
