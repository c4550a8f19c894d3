"""A training hands over what is due, and nothing else is asked of it."""

import math

import pytest
import torch
from torch import nn

from lop_ray.diagnostics import Diagnosable, DiagnosticSuite
from lop_ray.diagnostics.losses import cross_entropy
from lop_ray.networks import MLP, NetworkOptions
from lop_ray.seeding import torch_generator


class Classification(Diagnosable):
    """A supervised training without Ray: no ratios, as it has no policy."""

    def __init__(self, *, hidden: tuple[int, ...] = (8,)):
        self.network = self._make(hidden)
        self._first = self._make(hidden)
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=0.5)
        self.inputs = torch.randn(40, 4, generator=torch_generator(0, "inputs"))
        self.labels = torch.randint(3, (40,), generator=torch_generator(0, "labels"))
        self.prepared: list[frozenset[str]] = []
        self.asked: list[str] = []

    @staticmethod
    def _make(hidden: tuple[int, ...]) -> MLP:
        return MLP(4, 3, NetworkOptions(hidden=hidden), seed=1, name="classifier")

    def update(self) -> None:
        self.optimizer.zero_grad()
        cross_entropy(self.network(self.inputs), {"labels": self.labels}).backward()
        self.optimizer.step()

    def networks(self):
        return {"classifier": self.network}

    def prepare(self, entries):
        self.prepared.append(entries)

    def initial(self):
        self.asked.append("initial")
        return {"classifier": self._first}

    def losses(self):
        self.asked.append("losses")
        return {"classifier": cross_entropy}

    def batches(self):
        self.asked.append("batches")
        return {"classifier": {"inputs": self.inputs, "labels": self.labels}}

    def optimizers(self):
        self.asked.append("optimizers")
        return {"classifier": self.optimizer}


def values(rows, probe: str) -> dict[str, float]:
    return {row["metric"]: row["value"] for row in rows.probes if row["probe"] == probe}


def test_offers_are_what_a_training_overrides_and_before():
    assert Classification.offers() == {"before", "initial", "losses", "batches", "optimizers"}
    assert Diagnosable.offers() == {"before"}


def test_only_what_is_due_is_prepared_and_asked_for():
    training = Classification()
    options = {"gradients": {"every": 3}, "probe": {"every": 2, "steps": 2, "targets": 1}, "margins": {}}
    suite = DiagnosticSuite(options)
    asked = []
    for update in range(1, 7):
        suite.prepare(update, training)
        training.update()
        training.asked.clear()
        suite.diagnose(update, training, training.inputs)
        asked.append(sorted(training.asked))
    optimizers, both = ["optimizers"], ["batches", "losses"]
    assert asked == [[], optimizers, both, optimizers, [], [*both, "optimizers"]]
    assert [sorted(entries) for entries in training.prepared] == asked


def test_a_training_of_another_kind_is_measured_without_change():
    training = Classification()
    names = ("gradients", "kfac_ranks", "weights", "churn", "hessian_density", "margins")
    suite = DiagnosticSuite({name: {"every": 1} for name in names})
    suite.prepare(1, training)
    before = [p.detach().clone() for p in training.network.parameters()]
    training.update()
    rows = suite.diagnose(1, training, training.inputs)
    (row,) = rows.layers
    weight, old = training.network.body[0].weight.detach(), before[0]
    assert row["weight_change"] == pytest.approx(float((weight - old).abs().sum()), rel=1e-5)
    assert row["init_distance"] == pytest.approx(float((weight - old).square().sum().sqrt()), rel=1e-5)
    # The gradient by hand, through plain autograd on the network itself.
    loss = nn.functional.cross_entropy(training.network(training.inputs), training.labels)
    own = list(training.network.body[0].parameters())
    norm = sum(float(g.square().sum()) for g in torch.autograd.grad(loss, own)) ** 0.5
    assert row["gradient_norm"] == pytest.approx(norm, rel=1e-5)
    assert set(values(rows, "churn")) == {"distance", "greedy_share"}
    assert values(rows, "hessian_density")["parameters"] == 4 * 8 + 8 + 8 * 3 + 3


def test_numbers_that_cannot_be_had_are_said_and_end_nothing(caplog):
    training = Classification()
    suite = DiagnosticSuite({"gradients": {}, "margins": {}, "weights": {}})
    training.inputs[3, 1] = math.inf
    rows = suite.diagnose(7, training, training.inputs[5:])
    (row,) = rows.layers
    assert {"dead", "weight_norm"} <= row.keys()
    assert "gradient_norm" not in row
    (failed,) = rows.probes
    assert (failed["network"], failed["probe"], failed["metric"]) == ("classifier", "gradients", "failed")
    assert math.isnan(failed["value"])
    assert failed["reason"] == "the loss must be one finite number, not nan"
    assert "diagnostic gradients of network classifier, update 7: the loss must be one" in caplog.text


def test_a_library_call_raises_what_a_run_only_says():
    training = Classification()
    training.inputs[:] = math.nan
    extra = {"losses": training.losses(), "batches": training.batches()}
    with pytest.raises(ValueError, match="diagnostic gradients of network classifier, update 2: the loss must be one"):
        DiagnosticSuite({"gradients": {}}).measure(
            update=2, networks=training.networks(), observations=training.inputs, extra=extra
        )


def test_what_a_training_does_not_have_is_refused():
    with pytest.raises(ValueError, match=r"trust_region needs extra\['ratios'\] .* switch trust_region off"):
        DiagnosticSuite({"trust_region": {}}).diagnose(1, Classification(), torch.zeros(1, 4))
