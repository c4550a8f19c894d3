"""Adam with a second epsilon, under the root."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class RootedAdam(torch.optim.Adam):
    """Adam (Kingma & Ba 2015) with a second epsilon.

    The step for a weight with the gradient g is

        m <- beta_1 m + (1 - beta_1) g,    v <- beta_2 v + (1 - beta_2) g^2
        theta <- theta - lr m^ / (sqrt(v^ + eps_root) + eps),    m^ = m / (1 - beta_1^t),  v^ = v / (1 - beta_2^t)

    With `eps_root` 0 it is torch's. A larger one bounds the step of a weight whose gradients were tiny and grow at
    once, as they do when a task changes (Lyle et al. 2023, "Understanding plasticity in neural networks", eq. 6 and
    A.1; optax calls the two epsilons by these names).

    The state has the names and shapes of torch's Adam.

    Attributes:
        elementwise: True: every weight moves by its own gradient alone.

    Args:
        params: Parameters or groups.
        lr: Step size.
        betas: Decay of the two moments.
        eps: Added to the root.
        eps_root: Added under the root.
        weight_decay: lambda; g <- g + lambda theta comes first.
        decoupled: theta <- (1 - lr lambda) theta comes first in its place (AdamW).
    """

    elementwise = True

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        eps_root: float = 0.0,
        weight_decay: float = 0.0,
        decoupled: bool = False,
    ):
        super().__init__(params, lr, betas, eps, weight_decay, decoupled_weight_decay=decoupled)
        self.defaults["eps_root"] = eps_root
        for group in self.param_groups:
            group.setdefault("eps_root", eps_root)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Takes a step with every parameter that has a gradient.

        Args:
            closure: Computes loss and gradients anew, if given.

        Returns:
            The closure's loss, if there is one.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if parameters:
                self._step(group, parameters)
        return loss

    def _step(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        lr, decay = group["lr"], group["weight_decay"]
        beta1, beta2 = group["betas"]
        states = [self._state(p) for p in parameters]
        gradients = [p.grad for p in parameters if p.grad is not None]
        if decay and group["decoupled_weight_decay"]:
            torch._foreach_mul_(parameters, 1 - lr * decay)
        elif decay:
            gradients = list(torch._foreach_add(gradients, parameters, alpha=decay))
        means = [state["exp_avg"] for state in states]
        squares = [state["exp_avg_sq"] for state in states]
        torch._foreach_lerp_(means, gradients, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - beta2)
        counts = []
        for state in states:  # counts may differ: interventions start some anew
            state["step"] += 1
            counts.append(float(state["step"]))
        roots = torch._foreach_div(squares, [1 - beta2**count for count in counts])
        torch._foreach_add_(roots, group["eps_root"])
        torch._foreach_sqrt_(roots)
        torch._foreach_add_(roots, group["eps"])
        torch._foreach_addcdiv_(parameters, means, roots, [-lr / (1 - beta1**count) for count in counts])

    def _state(self, parameter: Tensor) -> dict[str, Any]:
        state: dict[str, Any] = self.state[parameter]
        if not state:
            state["step"] = torch.tensor(0.0)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        return state
