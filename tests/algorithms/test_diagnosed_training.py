"""Training with every diagnostic switched on: nothing changes, everything is written, and a restart goes on."""

import io

import numpy as np
import pytest
import torch

from callbacks.plasticity import PlasticityCallback
from lop_ray.algorithms import make_training
from lop_ray.algorithms.ppo.training import network_states
from lop_ray.diagnostics import DIAGNOSTICS
from tests.algorithms.small import assert_same_weights, small_trial, train

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("local_ray")]

# Every diagnostic, at every update, as small as it goes; what is not named here runs with its defaults.
SMALL = {
    "margins": "neurons_every: 1",
    "ranks": "spectra_every: 1, ratio: 0",
    "weight_spectrum": "store: true",
    "gradients": "samples: 64",
    "gradient_covariance": "samples: 16, clusters: 2",
    "hessian_density": "order: 4, samples: 64",
    "top_eigenvalues": "k: 1, samples: 64",
    "kfac_ranks": "samples: 64",
    "input_curvature": "samples: 64, directions: 2, store: true",
    "probe": "targets: 2, steps: 3, samples: 64",
}
ALL = tuple(f"diagnostics.{name}={{every: 1, {SMALL.get(name, '')}}}" for name in DIAGNOSTICS)
ALL += ("diagnostics.boundaries={samples: 64}",)
NONE = ("diagnostics=null",)  # a mapping would be merged into the grid's
TINY = ("network.hidden=[16, 12]",)


def random_states(training) -> list[bytes]:
    """Every generator that training draws from, and the global ones."""
    learner, runner = training.learner, training.algorithm.env_runner
    generators = [learner._shuffle, runner._generator, *learner.interventions._generators.values()]
    states = [g.get_state().numpy().tobytes() for g in generators]
    env = [repr(g.bit_generator.state).encode() for g in runner._vector_env._generators]
    return [*states, *env, torch.get_rng_state().numpy().tobytes(), np.random.get_state()[1].tobytes()]


def saved(value) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def trained(flags: tuple[str, ...], variant: str, updates: int):
    """Weights, gradients, modes, optimiser and generators after some updates."""
    torch.manual_seed(0)
    np.random.seed(0)
    training = make_training(small_trial(variant, flags=(*TINY, *flags)), [PlasticityCallback])
    rows = [training.update() for _ in range(updates)]
    module = training.learner.actor_critic
    state = training.learner.get_state()
    found = {
        "weights": network_states(training.state()) | {"log_std": {"": module.log_std.detach()}},
        "gradients": [None if p.grad is None else p.grad.clone() for p in module.parameters()],
        "modes": [m.training for m in module.modules()],
        "requires_grad": [p.requires_grad for p in module.parameters()],
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules()],
        "optimizer": saved(state["optimizer"]),
        "interventions": saved(state["training"]),
        "random": random_states(training),
    }
    training.close()
    return rows, found


@pytest.mark.parametrize("variant", ["std", "specnorm", "layernorm", "cbp", "upgd"])
def test_all_diagnostics_leave_training_as_it_is(variant):
    plain_rows, plain = trained(NONE, variant, 3)
    assert [sorted(update) for update in plain_rows] == [["episodes", "updates"]] * 3
    rows, diagnosed = trained(ALL, variant, 3)
    for network, tensors in plain["weights"].items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, diagnosed["weights"][network][name]), f"{network}.{name}"
    for one, other in zip(plain["gradients"], diagnosed["gradients"], strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.equal(one, other)
    for what in ("modes", "requires_grad", "hooks", "optimizer", "interventions", "random"):
        assert plain[what] == diagnosed[what], what
    for update in rows:
        assert {"layers", "neurons", "probes", "spectra"} <= update.keys()
        assert not [row for row in update["probes"] if row["metric"] == "failed"]
        assert update["updates"][0]["diagnose_s"] > 0


def test_resuming_with_all_diagnostics_gives_the_same_rows():
    trial = small_trial("specnorm", flags=(*TINY, *ALL))
    straight, end = train(trial, 4)
    first, middle = train(trial, 2)
    second, resumed_end = train(trial, 2, state=middle)
    assert repr(straight) == repr(first + second)  # repr: NaN equals NaN
    assert {row["probe"] for row in straight[-1]["probes"]} >= {"hessian_density", "probe_functions", "churn"}
    assert_same_weights(end, resumed_end)


def test_the_batch_is_this_updates_and_is_gone_when_nothing_wants_it():
    flags = (*NONE, "diagnostics={gradients: {every: 2}}", *TINY)
    training = make_training(small_trial(flags=flags), [PlasticityCallback])
    runner, fragments, seen = training.algorithm.env_runner, [], []
    sample, diagnosis = runner.sample, training.algorithm.diagnosis
    runner.sample = lambda **kwargs: fragments.append(sample(**kwargs)[0]) or [fragments[-1]]
    losses = diagnosis.losses
    diagnosis.losses = lambda: seen.append((training.algorithm.iteration, diagnosis.batches())) or losses()
    assert training.learner.kept_batch == {}
    for _ in range(3):
        training.update()
    assert training.learner.kept_batch == {}
    ((update, batches),) = seen
    assert update == 2
    obs = torch.from_numpy(fragments[1].obs.reshape(-1, 111))
    assert torch.equal(batches["policy"]["inputs"], obs)
    assert batches["policy"]["inputs"] is batches["value"]["inputs"]
    assert torch.equal(batches["policy"]["actions"], torch.from_numpy(fragments[1].actions.reshape(-1, 8)))
    assert torch.equal(batches["policy"]["logp"], torch.from_numpy(fragments[1].logp.reshape(-1)))
    advantages = batches["policy"]["advantages"]
    assert float(advantages.mean()) == pytest.approx(0, abs=1e-6)
    assert float(advantages.std()) == pytest.approx(1, abs=1e-6)
    training.close()


def test_diagnostics_cost_nothing_at_updates_without_any():
    chosen = "{hessian_density: {every: 3, order: 4}, probe: {every: 3, targets: 1, steps: 2}}"
    flags = (*NONE, f"diagnostics={chosen}", *TINY)
    training = make_training(small_trial(flags=flags), [PlasticityCallback])
    rows = [training.update() for _ in range(3)]
    training.close()
    assert [sorted(update) for update in rows[:2]] == [["episodes", "updates"]] * 2
    assert {row["probe"] for row in rows[2]["probes"]} == {"hessian_density", "probe_functions"}
    assert {row["spectrum"] for row in rows[2]["spectra"]} >= {"hessian_density", "probe_functions_curve"}
    idle, busy = (update["updates"][0]["diagnose_s"] for update in rows[1:])
    assert idle < busy / 10
