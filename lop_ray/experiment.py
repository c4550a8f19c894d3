"""Runs the trials of a plan with Ray Tune."""

from __future__ import annotations

import functools
import logging
import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Literal

# Ray reads some of these when it is imported: our rows are Parquet of our own, and paths stay what the user gave.
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS", "0")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # its reporter prints failures even when told to be silent

from callbacks.dashboard import DashboardRows, TrialStatusGauge
from callbacks.progress import Progress
from lop_ray.algorithms import make_training
from lop_ray.algorithms.registry import ALGORITHMS
from lop_ray.algorithms.spec import TrialSpec
from lop_ray.algorithms.training import Training
from lop_ray.algorithms.trial import RowListener
from lop_ray.errors import UserError
from lop_ray.results import BusyError, Lock
from lop_ray.sweep import Plan

OBJECT_STORE_BYTES = 300 * 1024**2
"""Trials pass next to nothing through the object store."""


STOP_WAIT_S = 600
"""How long an interrupted trial may take to end its update and commit it. Tune alone would kill it after 10 s, and with
it what came after the newest checkpoint."""


@dataclass
class Outcome:
    """What became of a run.

    Attributes:
        failed: Each failed trial with its reason and where its log is.
        interrupted: Whether it ended before all trials did.
    """

    failed: list[tuple[TrialSpec, str, str]] = field(default_factory=list)
    interrupted: bool = False


def run(plan: Plan) -> Outcome:
    """Runs what remains of `plan` to its end, to the first interrupt, or until nothing more can be done.

    Args:
        plan: A checked plan.

    Returns:
        Failures and whether it was interrupted.

    Raises:
        UserError: The cluster cannot hold a trial, or cannot be reached. Nothing has been written then.
    """
    with _ray(plan) as dashboard:
        _check_cluster(plan)
        progress = Progress(plan)
        with _only_driver(plan):
            plan.commit()
            print(dashboard, flush=True)
            with _terminate_like_interrupt(), _patient_stops(), progress:
                _tune(plan, progress)
        return Outcome(failed=progress.failed, interrupted=bool(progress.unfinished))


@contextmanager
def _only_driver(plan: Plan) -> Iterator[None]:
    """One command a grid at a time; a killed one holds nothing.

    Yields:
        Nothing.

    Raises:
        UserError: Another command is at work on this grid.
    """
    lock = Lock(plan.store.location, ".driver.lock", f"grid {plan.grid} in {plan.results}")
    try:
        lock.acquire()
    except BusyError as error:
        raise UserError(str(error)) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _ray(plan: Plan) -> Iterator[str]:
    """Ray, started here or joined.

    Yields:
        A sentence on the dashboard.
    """
    import ray

    quiet = {"logging_level": "ERROR", "log_to_driver": False}
    if plan.address:
        context = _join(plan.address, quiet)
    else:
        context = ray.init(num_cpus=plan.cores, include_dashboard=True, object_store_memory=OBJECT_STORE_BYTES, **quiet)
    try:
        yield _dashboard_line(context.dashboard_url)
    finally:
        ray.shutdown()


def _join(address: str, options: dict[str, Any]) -> Any:
    import ray
    from ray._private.authentication import authentication_token_setup as authentication

    # A cluster that `ray start` begins where a token lies asks for it, but `ray.init` only shows one when told to.
    authentication.logger.setLevel(logging.ERROR)
    shown = authentication.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    try:
        return ray.init(address=address, **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        token = "the token shown is that of this machine (~/.ray/auth_token)" if shown else "no token was shown"
        raise UserError(
            f"--address {address}: no Ray cluster answers there ({reason}); {token}: where the cluster asks for "
            "another, set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH"
        ) from error


def _dashboard_line(url: str | None) -> str:
    if not url:
        return "dashboard: not available (install ray[default])"
    from ray._private.authentication.http_token_authentication import get_auth_headers_if_auth_enabled

    asks = bool(get_auth_headers_if_auth_enabled({}))
    token = "; it asks for the token in ~/.ray/auth_token" if asks else ""
    return f"dashboard: http://{url}{token}; from another machine: ssh -L {url.rpartition(':')[2]}:{url} HOST"


def _check_cluster(plan: Plan) -> None:
    import ray

    have = ray.cluster_resources()
    for spec in plan.to_run:
        need = spec.resources
        cpus = need.cpus + need.env_runners
        if cpus > have.get("CPU", 0) or need.gpus > have.get("GPU", 0):
            raise UserError(
                f"a trial needs {cpus} CPUs and {need.gpus:g} GPUs, the cluster has {have.get('CPU', 0):g} and "
                f"{have.get('GPU', 0):g}; lower --cpus-per-trial, --gpus-per-trial"
            )


@contextmanager
def _terminate_like_interrupt() -> Iterator[None]:
    """SIGTERM ends the run as Ctrl-C does: Tune itself only handles SIGINT."""

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _patient_stops() -> Iterator[None]:
    """Gives stopped trials `STOP_WAIT_S`; Tune's own limit is a number in its controller, set by nothing else.

    Yields:
        Nothing.
    """
    from ray.tune.execution.tune_controller import TuneController

    plain = TuneController.__init__

    def patient(controller: Any, *args: Any, **kwargs: Any) -> None:
        plain(controller, *args, **kwargs)
        controller._actor_force_cleanup_timeout = STOP_WAIT_S

    TuneController.__init__ = patient
    try:
        yield
    finally:
        TuneController.__init__ = plain


def _tune(plan: Plan, progress: Progress) -> None:
    from ray import tune

    from lop_ray.algorithms.tune_trial import TuneTrial

    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # failures are ours to tell, in one line each
    trainable = tune.with_parameters(
        TuneTrial,
        store=(plan.results, plan.grid),
        make_training=_make_training,
        make_listeners=functools.partial(_make_listeners, plan.wandb),
    )
    with tempfile.TemporaryDirectory(prefix="lop_ray-tune-") as scratch, suppress(KeyboardInterrupt):
        tune.Tuner(
            tune.with_resources(trainable, _resources),
            param_space={"spec": tune.grid_search([_as_config(group) for group in plan.groups])},
            tune_config=tune.TuneConfig(
                max_concurrent_trials=plan.max_concurrent,
                reuse_actors=not any(ALGORITHMS[spec.algorithm].in_rllib for spec in plan.to_run),
                trial_name_creator=_trial_name,
                trial_dirname_creator=_trial_name,
            ),
            run_config=tune.RunConfig(
                name=plan.grid,
                storage_path=scratch,  # Tune's own state of the experiment; ours is in the store
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # trials keep their own
                failure_config=tune.FailureConfig(max_failures=plan.retries),
                callbacks=[progress, TrialStatusGauge(plan)],
                verbose=0,
            ),
        ).fit()


def _as_config(group: list[TrialSpec]) -> dict[str, Any]:
    first, *others = (spec.model_dump(mode="json") for spec in group)
    return {**first, "others": others} if others else first


def _resources(config: dict[str, Any]) -> Any:
    from ray import tune

    resources = config["spec"]["resources"]
    own = {"CPU": resources["cpus"]} | ({"GPU": resources["gpus"]} if resources["gpus"] else {})
    return tune.PlacementGroupFactory([own] + [{"CPU": 1}] * resources["env_runners"])


def _trial_name(trial: Any) -> str:
    spec = trial.config["spec"]
    more = f"-and-{len(spec['others'])}-more" if "others" in spec else ""
    return f"{spec['variant']}-seed{spec['seed']}{more}-{spec['trial_id']}"


def _make_training(spec: TrialSpec) -> Training:
    if not ALGORITHMS[spec.algorithm].in_rllib:
        return make_training(spec, [])  # without RLlib, which takes seconds to load
    from callbacks.plasticity import PlasticityCallback

    return make_training(spec, [PlasticityCallback])


def _make_listeners(wandb: Literal["off", "offline", "online"]) -> list[RowListener]:
    listeners: list[RowListener] = [DashboardRows()]
    if wandb != "off":
        from callbacks.wandb import WandbRows

        listeners.append(WandbRows(wandb))
    return listeners
