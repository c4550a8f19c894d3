"""From fragments to a training batch: values, advantages, lambda-returns."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.evaluation.postprocessing import Postprocessing
from ray.rllib.utils.annotations import override
from torch import Tensor

from lop_ray.algorithms.ppo.fragment import Fragment
from lop_ray.algorithms.ppo.gae import generalised_advantages
from lop_ray.algorithms.ppo.module import ActorCritic
from lop_ray.algorithms.ppo.options import PPOOptions
from lop_ray.networks.view import evaluation_mode

OBS, ACTIONS, LOGP = Columns.OBS, Columns.ACTIONS, Columns.ACTION_LOGP
VALUES, ADVANTAGES, RETURNS = Columns.VF_PREDS, Postprocessing.ADVANTAGES, Postprocessing.VALUE_TARGETS


class FragmentsToBatch(ConnectorV2):
    """Learner connector: fragments in, flat columns out; rows time-major, copies side by side."""

    def __init__(self, options: PPOOptions, device: torch.device):
        super().__init__()
        self._options, self._device = options, device

    @override(ConnectorV2)
    def __call__(self, *, rl_module: Any, batch: dict, episodes: list[Fragment], **kwargs: Any) -> dict:
        """Fills `batch` with the columns of all fragments."""
        module = rl_module[DEFAULT_MODULE_ID].unwrapped()
        parts = [self._columns(module, fragment) for fragment in episodes]
        columns = {
            key: torch.cat([part[key] for part in parts]) if len(parts) > 1 else parts[0][key] for key in parts[0]
        }
        if self._options.normalize_advantages is True:
            columns[ADVANTAGES] = standardised(columns[ADVANTAGES])
        batch[DEFAULT_MODULE_ID] = columns
        return batch

    def _columns(self, module: ActorCritic, fragment: Fragment) -> dict[str, Tensor]:
        values, discounted_next, discount = self._values(module, fragment)
        advantages = generalised_advantages(
            fragment.rewards, values, discounted_next, discount, self._options.gae_lambda
        )
        arrays = {
            OBS: fragment.obs,
            ACTIONS: fragment.actions,
            LOGP: fragment.logp,
            VALUES: values,
            ADVANTAGES: advantages,
            RETURNS: advantages + values,
        }
        # What a remote runner sent is read-only, which torch warns of: "W" copies it then, and only then.
        tensors = {key: torch.from_numpy(np.require(array, requirements="W")) for key, array in arrays.items()}
        return {key: tensor.flatten(0, 1).to(self._device) for key, tensor in tensors.items()}

    def _values(self, module: ActorCritic, fragment: Fragment) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """V(s_t), gamma V(s_{t+1}) as the time-limit rule has it, and the discount, each [T, N]."""
        steps, copies = fragment.rewards.shape
        struck, acted_on = len(fragment.final_obs), fragment.obs.reshape(-1, *fragment.obs.shape[2:])
        others = [fragment.last_obs, fragment.final_obs]
        seen = np.concatenate(others if fragment.values is not None else [acted_on, *others])
        with torch.no_grad(), evaluation_mode(module):
            new = module.compute_values({OBS: torch.from_numpy(seen).to(self._device)}).cpu().numpy()
        all_values = new if fragment.values is None else np.concatenate([fragment.values.ravel(), new])
        values = all_values[: steps * copies].reshape(steps, copies)
        last = all_values[steps * copies : (steps + 1) * copies]
        discount = np.where(fragment.terminateds | fragment.truncateds, np.float32(0), np.float32(self._options.gamma))
        discounted_next = discount * np.concatenate([values[1:], last[None]])
        if struck and self._options.time_limit == "bootstrap":
            t, n = fragment.final_values_at.T
            discounted_next[t, n] = np.float32(self._options.gamma) * all_values[-struck:]
        return values, discounted_next, discount


def standardised(advantages: Tensor) -> Tensor:
    """(A - mean A) / std A with the unbiased deviation; only centred where the deviation is zero or undefined.

    As `get_rets_advs` of the reference (`lop/algos/rl/ppo.py`), over the whole batch and without an epsilon.
    """
    centred = advantages - advantages.mean()
    if len(advantages) < 2:
        return centred
    deviation = centred.std()
    return centred / deviation if bool(deviation > 0) else centred


def explained_variance(returns: Tensor, values: Tensor) -> float:
    """1 - Var(R - V) / Var(R); NaN when the returns do not vary."""
    variance = returns.var()
    return float(1 - (returns - values).var() / variance) if bool(variance > 0) else float("nan")
