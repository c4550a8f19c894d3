"""The README's script: interventions in a plain PyTorch loop, without Ray."""

import subprocess
import sys

SCRIPT = """
import sys
import torch
from lop_ray.interventions import Training, make_interventions
from lop_ray.networks import MLP, NetworkOptions

network = MLP(8, 1, NetworkOptions(hidden=(64, 64)), seed=0)
interventions = make_interventions({"cbp": {"maturity_threshold": 50, "replacement_rate": 0.01}, "spectral_norm": {}})
generator = torch.Generator().manual_seed(0)
interventions.build({"net": network}, generator)
optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
interventions.attach(Training({"net": network}, optimizer, generator))

for step in range(1, 201):
    inputs = torch.randn(32, 8, generator=generator)
    loss = (network(inputs) - inputs.prod(dim=1, keepdim=True)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    interventions.after_gradient_step(step, inputs)
print(interventions.members["cbp"].replaced)
assert "ray" not in sys.modules
"""


def test_interventions_work_in_a_bare_script_and_never_import_ray() -> None:
    result = subprocess.run([sys.executable, "-W", "error", "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) > 50
