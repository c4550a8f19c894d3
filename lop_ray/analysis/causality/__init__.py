"""The seven experiments on whether dead units cause loss of plasticity: statistics, verdicts and figures.

| experiment | module | grid |
|---|---|---|
| prevent death | `prevent_death` | `prevent_death` |
| the same task again | `same_task` | `same_task_control` |
| margins by layer | `margin_profile` | `margin_profile` |
| distance between tasks | `task_distance` | `task_distance` |
| units killed by hand | `killed_units` | `kill_units` |
| temporal order | `temporal_order` | `temporal_order` |
| trajectories of units | `trajectories` | `unit_trajectories` |

Each reads a store and returns verdicts (`verdict.Verdict`): hypothesis, statistic, interval, n, and whether the data
support it, speak against it, or leave it open. The unit of inference is the seed everywhere: tasks, updates and units
of one run went through one network and aren't independent. Nothing here depends on the problem: the outcome is what
the store has (`panel.outcome_of`).
"""
