"""The learner: epochs x minibatches of PPO, with a place for interventions after every step."""

from __future__ import annotations

import time
from typing import Any

import torch
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.learner.learner import Learner
from ray.rllib.utils.annotations import override
from torch import Tensor, nn

from lop_ray.algorithms.divergence import check_finite, clip_norm, global_norm
from lop_ray.algorithms.optimizer import make_optimizer
from lop_ray.algorithms.ppo.batch import (
    ACTIONS,
    ADVANTAGES,
    LOGP,
    OBS,
    RETURNS,
    VALUES,
    FragmentsToBatch,
    explained_variance,
)
from lop_ray.algorithms.ppo.fragment import Fragment
from lop_ray.algorithms.ppo.loss import policy_loss, ratio_statistics, standardised_minibatch, value_loss
from lop_ray.algorithms.ppo.module import ACTION_DISTRIBUTION, NETWORK_OUTPUTS, ActorCritic
from lop_ray.algorithms.ppo.networks import with_policy
from lop_ray.algorithms.ppo.options import PPOOptions
from lop_ray.algorithms.spec import TrialSpec
from lop_ray.denormals import denormals_as_zero
from lop_ray.interventions.base import Interventions, LossStep, Training
from lop_ray.networks.view import trainable_weight
from lop_ray.seeding import torch_generator

_MINIBATCH_COLUMNS = (OBS, ACTIONS, LOGP, ADVANTAGES, RETURNS)
_STATISTICS = ("policy_loss", "value_loss", "entropy", "approx_kl", "clip_fraction")


class PlasticityLearner(PPOTorchLearner):
    """PPO's learner on fragments.

    RLlib's `update()` keeps its job (training data, learner connector, weight sequence numbers) but is asked
    for one pass over one full batch; the epochs are in `_update`, and every minibatch still goes through
    `forward_train`, `compute_losses`, `compute_gradients`, `postprocess_gradients` and `apply_gradients`.

    `last_update` holds the scalars of the latest update, `learn_s` its seconds. While `keep_batch` is set, `kept_batch`
    holds the columns of the latest update's batch, and `kept_fragments` what it was made of.
    """

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.trial: TrialSpec = self.config.trial
        self.options = PPOOptions(**self.trial.algorithm_options)
        self.gradient_steps = 0
        self.last_update: dict[str, float] = {}
        self.learn_s = 0.0
        self._shuffle = torch_generator(self.trial.seed, "minibatches")
        self.keep_batch = False
        self.kept_batch: dict[str, Tensor] = {}
        self.kept_fragments: list[Fragment] = []
        self._last_epoch: list[Tensor] = []
        self._inputs = torch.empty(0)
        self._keep_statistics = False

    @override(PPOTorchLearner)
    def build(self) -> None:
        """Builds module and optimiser, then hands both to the interventions."""
        super().build()
        if self._learner_connector is not None:
            self._learner_connector.append(FragmentsToBatch(self.options, self._device))
        generator = torch_generator(self.trial.seed, "interventions", "training")
        optimizer = self.get_optimizer(DEFAULT_MODULE_ID)
        training = Training(self.actor_critic.networks(), optimizer, generator, self.actor_critic.fresh_networks)
        self.interventions.attach(training)

    @property
    def actor_critic(self) -> ActorCritic:
        """The module in training."""
        return self.module[DEFAULT_MODULE_ID].unwrapped()

    @property
    def interventions(self) -> Interventions:
        """What keeps its networks plastic."""
        return self.actor_critic.interventions

    @override(PPOTorchLearner)
    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        """One optimiser over all networks and, if there is one, the log standard deviation, as in the reference."""
        parameters = self.get_parameters(self._module[module_id])
        self.register_optimizer(
            module_id=module_id,
            optimizer=make_optimizer(
                parameters,
                self.trial.optimizer,
                self.options.lr,
                networks=self.actor_critic.networks().values(),
                seed=self.trial.seed,
            ),
            params=parameters,
            lr_or_lr_schedule=self.options.lr,
        )

    @override(Learner)
    def update(self, *args: Any, num_epochs: int = 1, minibatch_size: int | None = None, **kwargs: Any) -> Any:
        """RLlib's update, over the whole batch at once; epochs and minibatches are those of the options.

        Torch has the trial's cores for as long as it lasts, and one thread otherwise: sampling gives the cores to the
        physics. A test holds the weights of one and of two threads equal, bit for bit.
        """
        start = time.perf_counter()
        kwargs.pop("shuffle_batch_per_epoch", None)
        self.kept_fragments = kwargs["training_data"].episodes if self.keep_batch else []
        torch.set_num_threads(self.trial.resources.cpus)
        try:
            with denormals_as_zero():
                results = super().update(*args, num_epochs=1, minibatch_size=None, **kwargs)
        finally:
            torch.set_num_threads(1)
        self.learn_s = time.perf_counter() - start
        return results

    @override(PPOTorchLearner)
    def _update(self, batch: dict[str, Any], **kwargs: Any) -> tuple[Any, Any, dict]:
        columns = batch[DEFAULT_MODULE_ID]
        self.kept_batch = columns if self.keep_batch else {}
        _, network = with_policy(self.actor_critic.networks())
        weights = [trainable_weight(m) for m in network.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
        before = [weight.detach().clone() for weight in weights]
        fwd_out, loss, norms = self._run_epochs({key: columns[key] for key in _MINIBATCH_COLUMNS})
        change = torch.stack([(w.detach() - b).abs().sum() for w, b in zip(weights, before, strict=True)]).sum()
        statistics = torch.stack(self._last_epoch).mean(0).tolist()
        self._last_epoch.clear()
        self.last_update = {
            **dict(zip(_STATISTICS, statistics, strict=True)),
            "grad_norm": sum(norms) / len(norms),
            "explained_variance": explained_variance(columns[RETURNS], columns[VALUES]),
            "weight_change": float(change),
        }
        self.metrics.log_dict(self.last_update, key=DEFAULT_MODULE_ID, window=1)
        return {DEFAULT_MODULE_ID: fwd_out}, {DEFAULT_MODULE_ID: loss.detach()}, {}

    def _run_epochs(self, columns: dict[str, Tensor]) -> tuple[Any, Tensor, list[float]]:
        """All gradient steps of one update; returns the last forward pass, the last loss, and every gradient norm."""
        rows, size = len(columns[OBS]), self.options.minibatch_size
        self._inputs = columns[OBS]
        norms: list[float] = []
        for epoch in range(self.options.num_epochs):
            self._keep_statistics = epoch == self.options.num_epochs - 1
            order = torch.randperm(rows, generator=self._shuffle).to(self._device)
            shuffled = {key: column[order].split(size) for key, column in columns.items()}
            for i in range(rows // size):
                minibatch = {key: parts[i] for key, parts in shuffled.items()}
                fwd_out, loss = self._gradient_step(minibatch)
                norms.append(self._grad_norm)
                self.interventions.after_gradient_step(self.gradient_steps, columns[OBS])
        self.interventions.after_update(self.gradient_steps, columns[OBS])
        return fwd_out, loss, norms

    def _gradient_step(self, minibatch: dict[str, Tensor]) -> tuple[Any, Tensor]:
        batch = {DEFAULT_MODULE_ID: minibatch}
        fwd_out = self.module.forward_train(batch)
        losses = self.compute_losses(fwd_out=fwd_out, batch=batch)
        gradients = self.compute_gradients(losses)
        self.apply_gradients(self.postprocess_gradients(gradients))
        self.gradient_steps += 1
        return fwd_out[DEFAULT_MODULE_ID], losses[DEFAULT_MODULE_ID]

    @override(PPOTorchLearner)
    def compute_loss_for_module(
        self, *, module_id: str, config: Any, batch: dict[str, Any], fwd_out: dict[str, Any]
    ) -> Tensor:
        """Policy + c_v value - c_e entropy + the interventions' penalties, over one minibatch."""
        options = self.options
        dist = fwd_out[ACTION_DISTRIBUTION]
        advantages = batch[ADVANTAGES]
        if options.normalize_advantages == "minibatch":
            advantages = standardised_minibatch(advantages)
        policy, log_ratio = policy_loss(dist.logp(batch[ACTIONS]), batch[LOGP], advantages, options.clip_param)
        value = value_loss(fwd_out[VALUES], batch[RETURNS])
        total = policy + options.value_loss_coefficient * value
        if options.entropy_coefficient:
            total = total - options.entropy_coefficient * dist.entropy().mean()
        if self.interventions.penalise:
            losses = {"policy": policy, "value": value}
            step = LossStep(self._inputs, batch[OBS], losses, fwd_out[NETWORK_OUTPUTS])
            penalty = self.interventions.loss_term(step)
            if penalty is not None:
                total = total + penalty
        if self._keep_statistics:
            with torch.no_grad():
                statistics = (dist.entropy().mean(), *ratio_statistics(log_ratio, options.clip_param))
                self._last_epoch.append(torch.stack((policy, value, *statistics)))
        self._loss = total.detach()
        return total

    @override(PPOTorchLearner)
    def postprocess_gradients(self, gradients_dict: dict[Any, Tensor]) -> dict[Any, Tensor]:
        """Refuses non-finite gradients before the step, and clips the global norm if asked to.

        RLlib's own handling turns NaN into 0 and steps, or looks at nothing at all.
        """
        gradients = list(gradients_dict.values())
        norm = global_norm(gradients)
        loss, self._grad_norm = torch.stack([self._loss, norm]).tolist()
        check_finite(loss, self._grad_norm, self._named_gradients, self.gradient_steps + 1)
        clip_norm(gradients, self._grad_norm, self.options.grad_clip)
        return gradients_dict

    def _named_gradients(self) -> list[tuple[str, Tensor | None]]:
        return [(name, parameter.grad) for name, parameter in self.actor_critic.named_parameters()]

    @override(PPOTorchLearner)
    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:
        """RLlib's state, and in component "training" what it leaves out: interventions, generators, counters."""
        state = super().get_state(components, not_components=not_components, **kwargs)
        if self._check_component("training", components, not_components):
            state["training"] = {
                "interventions": self.interventions.state_dict(),
                "shuffle": self._shuffle.get_state(),
                "gradient_steps": self.gradient_steps,
            }
        return state

    @override(PPOTorchLearner)
    def set_state(self, state: dict[str, Any]) -> None:
        """Takes back what `get_state` gave."""
        super().set_state(state)
        training = state.get("training")
        if training is not None:
            self.interventions.load_state_dict(training["interventions"])
            self._shuffle.set_state(training["shuffle"])
            self.gradient_steps = training["gradient_steps"]
