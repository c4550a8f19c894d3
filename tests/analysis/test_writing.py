from __future__ import annotations

import numpy as np
import pandas as pd

from lop_ray.analysis.writing import latex, markdown


def table() -> pd.DataFrame:
    return pd.DataFrame(
        {"n": [3, 1000], "return": ["1 [\N{MINUS SIGN}2, 3]", "none"], "share_of": ["50 % & more", "a|b"]},
        index=pd.Index(["std", "l2_init"], name="variant"),
    )


def test_markdown_by_hand() -> None:
    assert markdown(table()) == (
        "| variant | n | return | share_of |\n"
        "| --- | ---: | ---: | --- |\n"
        "| std | 3 | 1 [\N{MINUS SIGN}2, 3] | 50 % & more |\n"
        "| l2_init | 1,000 | none | a\\|b |\n"
    )


def test_latex_by_hand() -> None:
    assert latex(table()) == (
        "\\begin{tabular}{lrrl}\n"
        "\\toprule\n"
        "variant & n & return & share\\_of \\\\\n"
        "\\midrule\n"
        "std & 3 & 1 [$-$2, 3] & 50 \\% \\& more \\\\\n"
        "l2\\_init & 1,000 & none & a\\textbar{}b \\\\\n"
        "\\bottomrule\n"
        "\\end{tabular}\n"
    )


def test_latex_floats_with_a_caption() -> None:
    text = latex(table(), caption="P(X > Y), 95 %", label="tab:x_y")
    assert text.startswith("\\begin{table}\n\\centering\n\\caption{P(X \\textgreater{} Y), 95 \\%}\n\\label{tab:x_y}\n")
    assert text.endswith("\\end{tabular}\n\\end{table}\n")


def test_numbers_and_missing_values() -> None:
    numbers = pd.DataFrame({"x": [0.5, np.nan], "text": ["a\nb", None]})
    assert markdown(numbers) == "| x | text |\n| ---: | --- |\n| 0.5 | a b |\n| none | none |\n"


def test_an_index_of_several_levels_comes_first() -> None:
    levels = pd.DataFrame({"variant": ["std"], "task": [0], "n": [2]}).set_index(["variant", "task"])
    assert markdown(levels).splitlines()[-1] == "| std | 0 | 2 |"


def test_a_backslash_and_braces_survive_latex() -> None:
    assert r"\textbackslash{}x\{y\}\textasciicircum{}" in latex(pd.DataFrame({"a": ["\\x{y}^"]}))
