"""All figures and tables of a grid, and a page with them: `python -m lop_ray.report GRID [--results DIR] [--out DIR]`.

    OUT/index.html          everything inlined; needs nothing else, can be sent by mail
    OUT/figures/*.png       each figure
    OUT/tables/*.md, *.tex  each table, for a README and for a paper (booktabs)

What is drawn is what the rows allow; what isn't drawn is listed with the reason. A grid that still runs, or has failed
trials, can be reported on: the page says so at the top. Where a grid has further axes than variant and seed, every
setting of them has its own part of the page and its own folder of figures and tables.

Exit codes: 0, or 2 with one line on stderr.
"""

from __future__ import annotations

import argparse
import io
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from matplotlib.figure import Figure

from lop_ray.analysis import page as html
from lop_ray.analysis.curves import narrow, variant_order
from lop_ray.analysis.exhibits import Exhibit, exhibits
from lop_ray.analysis.opening import open_grid, read_settled
from lop_ray.analysis.responses import Outcomes, outcomes, response_figure, response_table
from lop_ray.analysis.tables import provenance_table, trial_list, with_intervals
from lop_ray.analysis.writing import latex, markdown
from lop_ray.errors import UserError, unknown
from lop_ray.results import Location, LocationError, Store

if TYPE_CHECKING:
    import pandas as pd

_ENDED = ("finished", "diverged")
_DPI = 160


@dataclass
class _Written:
    """What a report has written so far."""

    folder: Path
    figures: int = 0
    tables: int = 0
    not_drawn: list[str] = field(default_factory=list)
    anchors: dict[str, str] = field(default_factory=dict)


class _Setting(NamedTuple):
    """Trials that differ in variant and seed alone."""

    name: str
    trials: list[str]
    axes: dict[str, Any]


def report(results: str | Path | Location, grid: str, out: str | Path, baseline: str | None = None) -> str:
    """Writes figures, tables and the page of a grid.

    Args:
        results: The folder of all grids: a path or URI.
        grid: Name of the grid.
        out: Folder for what is written; made if there is none, files of the same names are replaced.
        baseline: The variant that the others are compared with; "std", or else the first, if not given.

    Returns:
        One line on what was written.

    Raises:
        UserError: The grid has no rows there, or no variant called `baseline`.
    """
    location, written = Location.of(results), _Written(Path(out))
    store = open_grid(location, grid)
    manifest = Store(location, grid).read_manifest()
    trials = trial_list(store)
    settings = _settings(trials, manifest)
    variants = variant_order(trials["variant"])
    if baseline is not None and baseline not in variants:
        raise UserError(f"{unknown('variant', baseline, variants)} in grid '{grid}'")
    parts: list[str] = []
    reached: list[Outcomes] = []
    for number, (name, ids, _) in enumerate(settings, start=1):
        part = open_grid(location, grid)
        narrow(part, f"trial_id IN ({', '.join(repr(trial) for trial in ids)})")
        own = variant_order(row[0] for row in part.execute("SELECT DISTINCT variant FROM trials").fetchall())
        chosen = baseline if baseline in own else "std" if "std" in own else own[0]
        if len(settings) > 1:
            parts.append(html.heading(name, 1, f"setting-{number}"))
            written.anchors[f"setting-{number}"] = name
            reached.append(outcomes(part))
        parts += _part(exhibits(part, chosen), written, _slug(name) if len(settings) > 1 else "", f"s{number}-")
    if reached:
        parts += _part(_across(settings, reached), written, "", "across-")
    body = [*_top(grid, trials, manifest, written), *parts, *_end(trials, manifest, provenance_table(store), written)]
    written.folder.mkdir(parents=True, exist_ok=True)
    path = written.folder / "index.html"
    path.write_text(html.page(f"{grid}: report", body), encoding="utf-8")
    return f"report: {path} ({written.figures} figures, {written.tables} tables; {_progress(trials, manifest)})"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line.

    Args:
        arguments: What follows the command's name; `sys.argv` by default.

    Returns:
        Exit code: 0, or 2 with one line on stderr.
    """
    try:
        chosen = _parser().parse_args(arguments)
        out = Path(chosen.out or Path("reports") / chosen.grid)
        print(read_settled(lambda: report(chosen.results, chosen.grid, out, chosen.baseline)))
    except (UserError, LocationError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (OSError, ValueError) as error:
        print(f"error: can't report on {chosen.grid}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def _part(shown: Iterator[Exhibit], written: _Written, folder: str, prefix: str) -> list[str]:
    """Writes the exhibits of one setting; returns their part of the page."""
    pieces: list[str] = []
    section = ""
    for exhibit in shown:
        if isinstance(exhibit.content, str):
            written.not_drawn.append(f"{folder + ': ' if folder else ''}{exhibit.title}: {exhibit.content}")
            continue
        if exhibit.section != section:
            section = exhibit.section
            anchor = prefix + _slug(section)
            written.anchors.setdefault(anchor, section)
            pieces.append(html.heading(section, 2, anchor))
        pieces.append(html.heading(exhibit.title, 3))
        if isinstance(exhibit.content, Figure):
            pieces.append(_figure(exhibit, exhibit.content, written.folder / "figures" / folder))
            written.figures += 1
        else:
            pieces.append(html.html_table(exhibit.content) + html.paragraph(exhibit.caption, soft=True))
            _write_table(exhibit, exhibit.content, written.folder / "tables" / folder)
            written.tables += 1
    return pieces


def _figure(exhibit: Exhibit, figure: Figure, folder: Path) -> str:
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=_DPI)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{exhibit.name}.png").write_bytes(image.getvalue())
    return html.picture(image.getvalue(), figure.get_figwidth(), exhibit.title, exhibit.caption)


def _write_table(exhibit: Exhibit, table: pd.DataFrame, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{exhibit.name}.md").write_text(markdown(table), encoding="utf-8")
    text = latex(table, f"{exhibit.title}. {exhibit.caption}", f"tab:{exhibit.name.replace('_', '-')}")
    (folder / f"{exhibit.name}.tex").write_text(text, encoding="utf-8")


def _settings(trials: pd.DataFrame, manifest: Mapping[str, Any] | None) -> list[_Setting]:
    """The trials by problem and place on the axes other than variant and seed."""
    places = (manifest or {}).get("trials", {})
    found: dict[str, _Setting] = {}
    for trial, problem in zip(trials["trial_id"], trials["problem"], strict=True):
        inner = {key: value for key, value in places.get(trial, {}).items() if key not in ("variant", "seed")}
        axes = {"problem": problem} | inner
        name = ", ".join(f"{key} = {value}" for key, value in axes.items())
        found.setdefault(name, _Setting(name, [], axes)).trials.append(trial)
    return list(found.values())


def _across(settings: Sequence[_Setting], reached: Sequence[Outcomes]) -> Iterator[Exhibit]:
    # What came of each setting, side by side; as a figure where one axis of numbers tells them apart.
    section = "Across settings"
    caption = (
        "One number a seed, then the mean over n seeds with its 95 % bootstrap interval. Return: mean over all bins. "
        "Dead units of the policy network: last tenth of the steps, mean over hidden layers. Killed: at a task "
        "boundary, mean over boundaries and hidden layers of the policy network."
    )
    axes = [key for key in settings[0].axes if len({repr(each.axes.get(key)) for each in settings}) > 1]
    values = [each.axes.get(axes[0]) for each in settings] if len(axes) == 1 else []
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) == len(settings):
        figure = response_figure(dict(zip(numbers, reached, strict=True)), axes[0])
        yield Exhibit(section, "response", f"Outcomes by {axes[0]}", caption, figure)
    by_name = {each.name: found for each, found in zip(settings, reached, strict=True)}
    table = with_intervals(response_table(by_name), digits=1)
    yield Exhibit(section, "response_table", "Outcomes in numbers", caption, table)


def _top(
    grid: str, trials: pd.DataFrame, manifest: Mapping[str, Any] | None, written: _Written
) -> Iterator[str]:  # what the page begins with
    yield html.heading(grid, 1)
    if manifest and manifest.get("description"):
        yield html.paragraph(str(manifest["description"]))
    waiting = _planned(trials, manifest) - int(trials["status"].isin(_ENDED).sum())
    if waiting:
        yield html.note(
            f"This grid is not finished: {_progress(trials, manifest)}. Where some seeds of a variant have no value "
            "yet, its line is thin and dashed, and the numbers are over the seeds that came so far."
        )
    if trials["git_commit"].nunique(dropna=False) > 1:
        yield html.note("The trials were run by more than one version of the code; see Provenance.")
    written.anchors["provenance"] = "Provenance"
    yield html.contents(written.anchors)


def _end(
    trials: pd.DataFrame, manifest: Mapping[str, Any] | None, provenance: pd.DataFrame, written: _Written
) -> Iterator[str]:  # what the page ends with
    yield html.heading("Provenance", 2, "provenance")
    provenance["uncommitted"] = provenance["uncommitted"].map({True: "yes", False: "no"}).fillna("unknown")
    yield html.paragraph(
        "A row for each commit, set of versions and kind of machine. uncommitted: the code differed from the commit. "
        "Times are UTC.",
        soft=True,
    )
    yield html.html_table(provenance)
    if manifest is None:
        yield html.note("grid.yaml is missing, so the definition of the grid and its other trials are unknown.")
    else:
        axes = {key: values for key, values in manifest.get("axes", {}).items()}
        problems = {key: value for options in manifest.get("problems", {}).values() for key, value in options.items()}
        definition = [html.settings_table({**axes, **manifest.get("settings", {}), **problems})]
        for name, changes in manifest.get("variants", {}).items():
            definition += [html.heading(f"variant {name}", 3), html.settings_table(changes or {"no change": ""})]
        yield html.folded("Configuration of the grid", definition)
        runs = [f"{run.get('at', '')}: {run.get('command', '')}" for run in manifest.get("runs", [])]
        yield html.folded(f"Commands ({len(runs)})", [html.items(runs)])
    shown = trials.assign(git_commit=trials["git_commit"].str.slice(0, 10))
    yield html.folded(f"All trials ({len(trials)})", [html.html_table(shown)])
    if written.not_drawn:
        yield html.heading("Not drawn", 2)
        yield html.items(written.not_drawn)


def _planned(trials: pd.DataFrame, manifest: Mapping[str, Any] | None) -> int:
    """How many trials the grid has, begun or not."""
    return len({*trials["trial_id"], *((manifest or {}).get("trials", {}))})


def _progress(trials: pd.DataFrame, manifest: Mapping[str, Any] | None) -> str:
    """Such as "of 4 trials 2 finished, 1 running, 1 not begun"."""
    counts = Counter(trials["status"])
    counts["not begun"] = _planned(trials, manifest) - len(trials)
    number = _planned(trials, manifest)
    states = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    return f"of {number} trial{'s' * (number > 1)} {states}"


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-").lower()


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(" ".join(message.split()))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m lop_ray.report", description=__doc__.splitlines()[0], allow_abbrev=False)
    add = parser.add_argument
    add("grid", metavar="GRID", help="name of a grid that has results")
    add("--results", default="results", metavar="DIR|URI", help="where the results are (default: %(default)s)")
    add("--out", metavar="DIR", help="folder for the page, figures and tables (default: reports/GRID)")
    add("--baseline", metavar="VARIANT", help="compare the others with this variant (default: std, or the first)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
