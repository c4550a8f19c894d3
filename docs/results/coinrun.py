"""Draws docs/results/coinrun.png and prints the tables of docs/results/coinrun.md from a results folder.

    python docs/results/coinrun.py RESULTS

Training and held-out return, and for the last encoder layer (FC, 256 units): units that are 0 on an average
observation (the source's "dead units"), units that no observation of the buffer activates, stable rank.
"""

import sys
from pathlib import Path

from matplotlib.figure import Figure
from pandas import DataFrame

from lop_ray.analysis.style import line_styles
from lop_ray.results import connect

BIN = 10  # updates
LAST = 4  # four convolutions, then the FC layer
TRAINING = f"""
    SELECT variant, task, {BIN} * ((update - 1) // {BIN} + 1) AS update, avg(episode_return) AS value
    FROM episodes JOIN trials USING (trial_id) WHERE update <= ? GROUP BY ALL ORDER BY ALL
"""
TESTED = """
    SELECT variant, task, update, episode_return_mean AS value, episode_return_std / sqrt(episodes) AS error
    FROM evaluations JOIN trials USING (trial_id) WHERE update <= ? ORDER BY ALL
"""
LAYER = """
    SELECT variant, task, update, {} AS value FROM layers JOIN trials USING (trial_id)
    WHERE layer = ? AND update <= ? AND value IS NOT NULL ORDER BY ALL
"""
CHANGES = "SELECT min(update) - 1 FROM updates WHERE task > 0 GROUP BY task ORDER BY task"
COLUMNS = {
    "zero activations, FC (%)": "100 * (1 - activation_rate)",
    "units never active, FC (%)": "100.0 * dead / units",
    "stable rank, FC (% of units)": "100.0 * stable_rank / units",
}


def main(results: str) -> None:
    """Draws and prints.

    Args:
        results: Folder of all grids.
    """
    store = connect(results, "coinrun_quick")
    ((last,),) = store.sql("SELECT max(update) FROM updates").fetchall()
    panels = {
        "return in training": store.execute(TRAINING, [last]).df(),
        "return on held-out levels": store.execute(TESTED, [last]).df(),
        **{label: store.execute(LAYER.format(column), [LAST, last]).df() for label, column in COLUMNS.items()},
    }
    changes = [update for (update,) in store.sql(CHANGES).fetchall()]
    _draw(panels, changes)
    ((common,),) = store.sql("SELECT min(u) FROM (SELECT max(update) AS u FROM updates GROUP BY trial_id)").fetchall()
    print(f"all variants have {common} updates, the longest {last}\n")
    tasks = sorted(panels["return in training"]["task"].unique())
    print("| variant | task | updates | " + " | ".join(panels) + " |\n|" + "---|" * (len(panels) + 3))
    for variant in line_styles(panels["return in training"]["variant"].unique()):
        for task in tasks:
            cells, updates = [], 0
            for label, frame in panels.items():
                own = frame[(frame["variant"] == variant) & (frame["task"] == task) & (frame["update"] <= common)]
                updates = max(updates, int(own["update"].max())) if len(own) else updates
                cells.append(_cell(label, own))
            print(f"| {variant} | {task} | to {updates} | " + " | ".join(cells) + " |")


def _cell(label: str, own: DataFrame) -> str:
    """Mean of the task's last 50 updates for returns, its last value for the layer."""
    if own.empty:
        return "-"
    if "return" not in label:
        return f"{own['value'].iloc[-1]:.1f}"
    late = own[own["update"] > own["update"].max() - 50]["value"]
    return f"{late.mean():.2f}"


def _draw(panels: dict[str, DataFrame], changes: list[int]) -> None:
    figure = Figure(figsize=(10, 5.6), layout="constrained")
    grid = figure.subplots(2, 3).ravel()
    names = panels["return in training"]["variant"].unique()
    looks = line_styles(names)
    for axes, (label, frame) in zip(grid, panels.items(), strict=False):
        for variant, own in frame.groupby("variant", sort=False):
            axes.plot(own["update"], own["value"], **looks[variant], label=variant)
            if "error" in own:
                low, high = own["value"] - own["error"], own["value"] + own["error"]
                axes.fill_between(own["update"], low, high, color=looks[variant].get("color"), alpha=0.15, lw=0)
        for change in changes:
            axes.axvline(change, color="#777777", lw=0.8, ls=":")
        axes.set_title(label, fontsize=10)
        axes.set_xlabel("update (1,024 steps)")
    grid[-1].axis("off")
    handles, labels = grid[0].get_legend_handles_labels()
    grid[-1].legend(
        handles, labels, loc="center", frameon=False, title="seed 0, n = 1\nband: standard error of\n32 episodes"
    )
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=120)


if __name__ == "__main__":
    main(sys.argv[1])
