"""Denormal numbers: what a dead unit leaves behind in Adam's averages, and what a CPU computes slowly with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

for _type in (np.float32, np.float64):
    np.finfo(_type)  # kept by numpy; looked at for the first time while denormals are 0, it would warn


@contextmanager
def denormals_as_zero() -> Iterator[None]:
    """Numbers below the least normal one (1.2e-38 in float32, 2.2e-308 in float64) count as 0 while this lasts.

    A unit that has died gets gradients of exactly 0, and Adam's averages of them decay: m_t = beta_1 m_{t-1} is
    denormal after some 900 steps at beta_1 = .9, and rounding keeps it from ever becoming 0. An x86 CPU takes many
    times as long with such numbers; `python -m benchmarks.denormals` says by how much an update slows down. A weight
    moves by lr m / (sqrt(v) + eps), so that what is left out is below 1e-30 of a step.

    It holds for the calling thread and for those that torch makes later, not for threads that torch has already: a
    process that trains with several calls `flush_denormals` before torch makes them.
    Where a CPU cannot do this, and on GPUs, nothing changes.
    """
    if (torch.tensor(torch.finfo(torch.float32).tiny) * 0.5).item() == 0:
        yield  # on already, and for longer
        return
    flush_denormals()
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def flush_denormals() -> None:
    """Denormals count as 0 from now on, in this thread and in those that torch makes from now on."""
    torch.set_flush_denormal(True)
