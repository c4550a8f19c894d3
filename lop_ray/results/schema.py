"""The tables of the store: every column, its type, its unit and its meaning.

A column is described in its field's metadata, under `description`; a table's schema carries its name
and SCHEMA_VERSION, which every part repeats in its file metadata. Columns are added, never renamed
or given another type; adding one raises SCHEMA_VERSION, and older parts read as null there.

`trial_id` is in the files as well as in the folders' names: a part is complete on its own, and a
reader that takes the folder's value for something else than text is overruled by the file.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

SCHEMA_VERSION = 3
VERSION_KEY = b"lop_ray.schema_version"

STATUSES = ("running", "finished", "diverged", "failed", "stopped")

_INT, _COUNT, _FLOAT, _TEXT, _BOOL = pa.int64(), pa.int32(), pa.float64(), pa.string(), pa.bool_()
_TIME = pa.timestamp("us")  # no zone: duckdb can't hand out zoned times without pytz

Columns = dict[str, tuple[pa.DataType, str]]

_TRIAL_ID: Columns = {"trial_id": (_TEXT, "The trial; key into `trials`.")}
_WHEN: Columns = {
    "update": (_INT, "Updates of the trial so far, this one included; counted from 1 (0: before the first)."),
    "env_steps": (_INT, "Environment steps of the trial so far (examples, for supervised problems)."),
    "task": (_COUNT, "Task that the problem was at; counted from 0."),
}
_WHERE: Columns = {
    "network": (_TEXT, "policy, value, policy_value (one network under both heads), q or classifier."),
    "layer": (_COUNT, "Hidden layer; 0 is the first."),
}
_DESCRIPTIONS: dict[str, Columns] = {
    "trials": _TRIAL_ID
    | {
        "grid": (_TEXT, "Name of the grid."),
        "problem": (_TEXT, "Name of the problem."),
        "algorithm": (_TEXT, "Name of the algorithm."),
        "variant": (_TEXT, "Name of the variant."),
        "seed": (_INT, "Seed of the trial."),
        "status": (_TEXT, "running, finished, diverged, failed or stopped."),
        "reason": (_TEXT, "Why it diverged, failed or stopped; null otherwise."),
        "env_steps": (_INT, "Environment steps taken."),
        "updates": (_INT, "Updates made."),
        "config": (_TEXT, "The resolved configuration, JSON."),
        "git_commit": (_TEXT, "Commit of the code; null outside a git repository."),
        "git_dirty": (_BOOL, "Whether the code differed from that commit; null outside a git repository."),
        "versions": (_TEXT, "Versions of Python and the packages, JSON."),
        "hardware": (_TEXT, "Processor, cores and GPUs of the machine."),
        "started_at": (_TIME, "When the trial first ran, UTC."),
        "finished_at": (_TIME, "When the trial ended, UTC; null while it runs."),
    },
    "updates": _TRIAL_ID
    | _WHEN
    | {
        "wall_s": (_FLOAT, "Time of this update in s: sampling, learning, diagnosing, evaluating."),
        "policy_loss": (_FLOAT, "Policy loss, mean over the minibatches of the last epoch."),
        "value_loss": (_FLOAT, "Value loss, mean over the minibatches of the last epoch."),
        "entropy": (_FLOAT, "Entropy of the policy in nats, mean over the last epoch."),
        "approx_kl": (_FLOAT, "Estimated KL from the policy that sampled, in nats, mean over the last epoch."),
        "clip_fraction": (_FLOAT, "Share of samples whose ratio was clipped, over the last epoch."),
        "grad_norm": (_FLOAT, "L2 norm of the gradient before clipping, mean over all gradient steps of the update."),
        "explained_variance": (_FLOAT, "1 - Var(return - value) / Var(return) over the batch."),
        "weight_change": (_FLOAT, "Sum of |dw| over the policy's network, biases left out, over this update."),
        "loss": (_FLOAT, "Supervised: loss, mean over the examples that the update showed, before each step."),
        "accuracy": (_FLOAT, "Supervised: share of those examples that were classified right; null for regression."),
        "test_accuracy": (_FLOAT, "Supervised: share of held-out examples classified right, after the update."),
        "episodes": (_COUNT, "Episodes that ended during this update."),
        "episode_return_mean": (_FLOAT, "Mean undiscounted return of those; null if none ended."),
        "sample_s": (_FLOAT, "Time for sampling, in s."),
        "learn_s": (_FLOAT, "Time for the gradient steps, in s."),
        "diagnose_s": (_FLOAT, "Time for the diagnostics, in s."),
    },
    "episodes": _TRIAL_ID
    | _WHEN
    | {
        "episode_return": (_FLOAT, "Undiscounted return."),
        "length": (_COUNT, "Steps of the episode."),
        "terminated": (_BOOL, "True: a terminal state; false: cut by the time limit."),
    },
    "tasks": _TRIAL_ID
    | _WHEN
    | {
        "examples": (_INT, "Examples shown in the task."),
        "first_loss": (_FLOAT, "Loss on the task's examples before its first gradient step."),
        "min_loss": (_FLOAT, "Least loss of any gradient step, before it; with minibatches of any update's mean."),
        "last_loss": (_FLOAT, "Loss of the last gradient step, before it; with minibatches the last update's mean."),
        "final_loss": (_FLOAT, "Loss on the task's examples after its last gradient step."),
        "final_accuracy": (_FLOAT, "Share of the task's examples then classified right; null for regression."),
        "online_accuracy": (_FLOAT, "Share of examples classified right when first shown; null for regression."),
        "test_accuracy": (_FLOAT, "Share of held-out examples classified right at the task's end."),
        "fresh_min_loss": (_FLOAT, "min_loss of a newly drawn network; null where none was trained."),
        "fresh_final_loss": (_FLOAT, "final_loss of a newly drawn network."),
        "fresh_final_accuracy": (_FLOAT, "final_accuracy of a newly drawn network."),
        "distance": (_FLOAT, "Optimal-transport distance of the task's examples to the task before's; see problems."),
    },
    "evaluations": _TRIAL_ID
    | _WHEN
    | {
        "split": (_TEXT, "What was evaluated on: test, held out from training."),
        "episodes": (_COUNT, "Whole episodes, as many from each env copy."),
        "episode_return_mean": (_FLOAT, "Mean undiscounted return."),
        "episode_return_std": (_FLOAT, "Standard deviation of the returns (n - 1); null with one episode."),
        "length_mean": (_FLOAT, "Mean steps of an episode."),
        "returns": (pa.list_(pa.float32()), "Undiscounted return of each episode."),
        "evaluate_s": (_FLOAT, "Time for the evaluation, in s; part of the update's wall_s."),
    },
    "layers": _TRIAL_ID
    | _WHEN
    | _WHERE
    | {
        "units": (_COUNT, "Units (channels) of the layer."),
        "dead": (_COUNT, "Units with margin < 0: no buffered observation activates them."),
        "at_risk": (_COUNT, "Units with 0 <= margin < 0.1."),
        "always_on": (_COUNT, "Units whose least pre-activation over the buffer is > 0."),
        "selective": (_COUNT, "Units whose pre-activation is < 0 for some buffered observations, > 0 for others."),
        "mean_margin": (_FLOAT, "Mean over units of the margin: the largest pre-activation over the buffer."),
        "activation_rate": (_FLOAT, "Mean over units of the share of buffered observations that activate them."),
        "dormant": (_COUNT, "Units with E|h| / mean over units of E|h| at most tau (Sokar et al. 2023)."),
        "silent": (_COUNT, "Units active on at most 1 % of buffered observations (the reference's dormant units)."),
        "activity": (_FLOAT, "Mean over units and buffered observations of |h|."),
        "pre_activation_norm": (_FLOAT, "Mean over buffered observations of the L2 norm of all pre-activations."),
        "activation_norm": (_FLOAT, "Mean over buffered observations of the L2 norm of all activations."),
        "never_active": (_COUNT, "Units whose activation is <= 0 on every buffered observation."),
        "duplicates": (_COUNT, "Units with |correlation| > .95 to an earlier unit."),
        "sparsity": (_FLOAT, "Share of activations that are exactly 0 (Juliani & Ash's dead units)."),
        "saturation": (_FLOAT, "Share of pre-activations with |z| > 2."),
        "predictive_dead": (_COUNT, "Dead units of the weights before this update, on the data after it."),
        "predictive_at_risk": (_COUNT, "Units at risk, of the weights before this update on the data after it."),
        "predictive_mean_margin": (_FLOAT, "Mean margin of the weights before this update on the data after it."),
        "died": (_COUNT, "Units alive with the old weights and dead with the new ones, on the same data."),
        "revived": (_COUNT, "Units dead with the old weights and alive with the new ones, on the same data."),
        "stable_rank": (_FLOAT, "Least k whose largest k singular values of the features hold 99 % of their sum."),
        "effective_rank": (_FLOAT, "exp of the entropy of the normalised singular values (Roy & Vetterli 2007)."),
        "centred_effective_rank": (_FLOAT, "effective_rank of the features less their mean over observations."),
        "feature_rank": (_FLOAT, "Number of singular values of features / sqrt(N) above 0.01 (Lyle et al. 2022)."),
        "pca_rank": (_FLOAT, "Least k whose largest k squared singular values hold 99 % of their sum."),
        "covariance_rank": (_FLOAT, "exp of the entropy of the eigenvalues of the pre-activations' covariance."),
        "numerical_rank": (_FLOAT, "Singular values above the largest times max(N, D) times machine epsilon."),
        "relative_rank": (_FLOAT, "Singular values above 1 % of the largest."),
        "rank_refusal": (_TEXT, "Why ranks are NaN, such as too few samples; null where they are not."),
        "weight_magnitude": (_FLOAT, "Mean |w| of the layer's incoming weights, without biases."),
        "weight_norm": (_FLOAT, "Frobenius norm of the layer's incoming weights."),
        "init_distance": (_FLOAT, "Frobenius distance of the incoming weights from their initial values."),
        "spectral_norm": (_FLOAT, "Largest singular value of the incoming weights."),
        "condition_number": (_FLOAT, "Largest by least singular value of the incoming weights; may be infinite."),
        "weight_rank": (_FLOAT, "Effective rank of the incoming weights."),
        "weight_change": (_FLOAT, "Sum of absolute changes of the incoming weights over this update."),
        "gradient_norm": (_FLOAT, "L2 norm of the mean loss's gradient in the layer's own parameters."),
        "gradient_snr": (_FLOAT, "Norm of the mean by the deviation of its per-sample gradients; may be infinite."),
        "kfac_input_rank": (_FLOAT, "Numerical rank of what the layer reads, samples by inputs."),
        "kfac_gradient_rank": (_FLOAT, "Numerical rank of the loss's gradients in the layer's outputs, by samples."),
        "kfac_input_effective_rank": (_FLOAT, "Effective rank of what the layer reads."),
        "kfac_gradient_effective_rank": (_FLOAT, "Effective rank of the gradients in the layer's outputs."),
    },
    "neurons": _TRIAL_ID
    | _WHEN
    | _WHERE
    | {
        "margin": (pa.list_(pa.float32()), "Largest pre-activation over the buffer, one value a unit."),
        "gradient": (pa.list_(pa.float32()), "L2 norm of the loss's gradient in a unit's incoming weights and bias."),
        "push": (pa.list_(pa.float32()), "Sum over samples of dL/dz: above 0 a gradient step lowers z."),
    },
    "probes": _TRIAL_ID
    | _WHEN
    | {"probe": (_TEXT, "Name of the probe.")}
    | _WHERE
    | {
        "metric": (_TEXT, "What of the probe was measured."),
        "value": (_FLOAT, "The measured value, in the metric's unit."),
        "reason": (_TEXT, "Why a diagnostic has no numbers, where metric is failed; null otherwise."),
    },
    "boundaries": _TRIAL_ID
    | _WHEN
    | _WHERE
    | {
        "units": (_COUNT, "Units (channels) of the layer."),
        "samples": (_COUNT, "Observations: the last ones of the old task, and as many first ones of the new."),
        "adaptation_updates": (_COUNT, "Updates from the first with a step of the new task to this one, inclusive."),
        **{
            f"{moment}_{column}": (kind, f"{what} of {weights} on the {task} task's observations.")
            for moment, weights, task in (
                ("old", "the old weights", "old"),
                ("predictive", "the old weights", "new"),
                ("actual", "the new weights", "new"),
            )
            for column, kind, what in (
                ("dead", _COUNT, "Units with margin < 0"),
                ("at_risk", _COUNT, "Units with 0 <= margin < 0.1"),
                ("mean_margin", _FLOAT, "Mean margin"),
            )
        },
        "killed_by_shift": (_COUNT, "Units of the old weights alive on the old observations and dead on the new."),
        "revived_by_shift": (_COUNT, "Units of the old weights dead on the old observations and alive on the new."),
        "killed_by_adaptation": (_COUNT, "Units alive with the old weights and dead with the new, on the new task."),
        "revived_by_adaptation": (_COUNT, "Units dead with the old weights and alive with the new, on the new task."),
    },
    "spectra": _TRIAL_ID
    | _WHEN
    | _WHERE
    | {
        "spectrum": (_TEXT, "Name of the spectrum, such as singular_values or hessian_density."),
        "x": (pa.list_(_FLOAT), "The spectrum's values, or its abscissa."),
        "y": (pa.list_(_FLOAT), "Density or weight at each x; null where x stands alone."),
    },
}


def _schema(table: str, columns: Columns) -> pa.Schema:
    fields = [pa.field(name, kind, metadata={"description": text}) for name, (kind, text) in columns.items()]
    return pa.schema(fields, metadata={"lop_ray.table": table, VERSION_KEY: str(SCHEMA_VERSION)})


SCHEMAS: dict[str, pa.Schema] = {table: _schema(table, columns) for table, columns in _DESCRIPTIONS.items()}
"""The schema of each table, by name."""

JSON_COLUMNS = ("config", "versions")
"""Columns of `trials` that hold JSON."""


class SchemaVersionError(ValueError):
    """A part was written by a newer version of the schema."""


def schema_of(table: str) -> pa.Schema:
    """The schema of a table.

    Args:
        table: Name of the table.

    Returns:
        Its columns, with descriptions, and the schema's version.

    Raises:
        KeyError: There is no such table.
    """
    try:
        return SCHEMAS[table]
    except KeyError:
        raise KeyError(f"no table {table!r} in the store; there are {', '.join(SCHEMAS)}") from None


def describe(table: str) -> dict[str, str]:
    """Meaning and unit of every column of a table."""
    return {field.name: field.metadata[b"description"].decode() for field in schema_of(table)}


def check_version(metadata: dict[bytes, bytes] | None, where: Any) -> None:
    """Refuses a part with columns that this code doesn't know, because they would be lost unseen.

    Args:
        metadata: The file's metadata.
        where: The file, for the message.

    Raises:
        SchemaVersionError: The part was written by a newer schema.
    """
    version = int((metadata or {}).get(VERSION_KEY, b"0"))
    if version > SCHEMA_VERSION:
        raise SchemaVersionError(
            f"{where} has schema version {version}, this lop_ray knows up to {SCHEMA_VERSION}: "
            "use the lop_ray that wrote it or a newer one"
        )
