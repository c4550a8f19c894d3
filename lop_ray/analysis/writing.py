"""Tables as Markdown and LaTeX, for a README and for a paper."""

from __future__ import annotations

import pandas as pd

_MARKDOWN = {"|": "\\|", "\n": " ", "<": "&lt;", ">": "&gt;"}
_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "\N{MINUS SIGN}": r"$-$",
    "\N{EN DASH}": "--",
    "\n": " ",
}


def markdown(table: pd.DataFrame) -> str:
    """A table in GitHub's Markdown; columns of numbers are aligned to the right.

    Args:
        table: Text or numbers, such as from `lop_ray.analysis.tables.with_intervals`; the index comes first, a
            plain running number as index is left out.

    Returns:
        The table, ending with a newline.
    """
    header, rows, numeric = cells(table)
    lines = [header, ["---:" if right else "---" for right in numeric], *rows]
    escaped = [[_replaced(cell, _MARKDOWN) for cell in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in escaped)


def latex(table: pd.DataFrame, caption: str = "", label: str = "") -> str:
    r"""A table in LaTeX, with the rules of the package booktabs (`\usepackage{booktabs}`).

    Args:
        table: As for `markdown`.
        caption: Caption, plain text. With a caption or a label the table floats (`table`).
        label: Such as "tab:return".

    Returns:
        The table, ending with a newline.
    """
    header, rows, numeric = cells(table)
    lines = [" & ".join(_replaced(cell, _LATEX) for cell in line) + r" \\" for line in [header, *rows]]
    alignment = "".join("r" if right else "l" for right in numeric)
    body = [rf"\begin{{tabular}}{{{alignment}}}", r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule"]
    body.append(r"\end{tabular}")
    if caption or label:
        about = [rf"\caption{{{_replaced(caption, _LATEX)}}}"] if caption else []
        about += [rf"\label{{{label}}}"] if label else []
        body = [r"\begin{table}", r"\centering", *about, *body, r"\end{table}"]
    return "\n".join(body) + "\n"


def cells(table: pd.DataFrame) -> tuple[list[str], list[list[str]], list[bool]]:
    """Header, rows and, for each column, whether it holds numbers (values with intervals count as numbers)."""
    running = isinstance(table.index, pd.RangeIndex) and table.index.name is None
    whole = table if running else table.reset_index()
    rows = [[_text(value) for value in row] for row in whole.itertuples(index=False, name=None)]
    header = [str(name) for name in whole.columns]
    numeric = [all(_is_number(row[place]) for row in rows) for place in range(len(header))]
    return header, rows, numeric


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.10g}" if value == value else "none"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return "none" if value is None or value is pd.NaT else str(value)


def _is_number(text: str) -> bool:
    first = text.partition(" ")[0].replace(",", "").replace("\N{MINUS SIGN}", "-")
    try:
        float(first)
    except ValueError:
        return text == "none"
    return True


def _replaced(text: str, marks: dict[str, str]) -> str:
    return "".join(marks.get(character, character) for character in text)
