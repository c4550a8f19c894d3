"""Draws docs/results/adam_instability.png and prints the table of docs/results/adam_instability.md.

    python docs/results/adam_instability.py RESULTS

By task: accuracy and loss on its examples after its last gradient step, beside those of newly drawn networks, and the
share of hidden units that no example activates then. Thin lines are seeds; trials that have not finished are left out.
"""

import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from pandas import DataFrame, Series

from lop_ray.analysis.opening import open_grid
from lop_ray.analysis.statistics import estimate
from lop_ray.analysis.style import line_styles

LATE = 2  # tasks whose mean is in the table
ROWS = """
    WITH ends AS (
        SELECT trial_id, task, 100.0 * sum(never_active) / sum(units) AS never_active
        FROM (SELECT *, rank() OVER (PARTITION BY trial_id, task ORDER BY update DESC) AS place FROM layers)
        WHERE place = 1 GROUP BY ALL
    )
    SELECT variant, seed, task, 100 * final_accuracy AS accuracy, final_loss AS loss, never_active,
           100 * fresh_final_accuracy AS fresh_accuracy, fresh_final_loss AS fresh_loss
    FROM tasks JOIN ends USING (trial_id, task) JOIN trials USING (trial_id)
    WHERE status = 'finished' ORDER BY ALL
"""
PANELS = {
    "accuracy": "accuracy at the task's end (%)",
    "loss": "cross-entropy at the task's end (nats)",
    "never_active": "units that no example activates (%)",
}
LEGEND = "mean over seeds; diamonds: newly drawn networks on the same tasks"


def main(results: str) -> None:
    """Draws and prints.

    Args:
        results: Folder of all grids.
    """
    rows = open_grid(results, "adam_instability").sql(ROWS).df()
    _draw(rows)
    heads = [f"{label}, last {LATE} tasks" for label in PANELS.values()]
    print("| variant | " + " | ".join(heads) + " | newly drawn: accuracy (%) | n |\n|" + "---|" * (len(heads) + 3))
    for variant, own in rows.groupby("variant"):
        late = own[own["task"] > own["task"].max() - LATE].groupby("seed").mean(numeric_only=True)
        fresh = own.groupby("seed")["fresh_accuracy"].mean()
        cells = [_with_interval(late[name]) for name in PANELS] + [_with_interval(fresh), str(len(late))]
        print(f"| {variant} | " + " | ".join(cells) + " |")


def _with_interval(values: Series) -> str:
    found = estimate(values.to_numpy(), np.random.default_rng(0))
    return f"{found.value:.3g} [{found.low:.3g}, {found.high:.3g}]"


def _draw(rows: DataFrame) -> None:
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    looks = line_styles(rows["variant"].unique())
    for axes, (name, label) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
        for variant, own in rows.groupby("variant"):
            table = own.pivot(index="task", columns="seed", values=name)
            axes.plot(table, color=looks[variant]["color"], lw=0.6, alpha=0.5)
            axes.plot(table.mean(axis=1), **looks[variant], label=variant)
            if f"fresh_{name}" in own:
                fresh = own.groupby("task")[f"fresh_{name}"].mean().dropna()
                axes.plot(fresh, "D", color=looks[variant]["color"], mfc="white", ms=5)
        axes.set_xlabel("task")
        axes.set_title(label, fontsize=10)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, title=LEGEND)
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=120)


if __name__ == "__main__":
    main(sys.argv[1])
