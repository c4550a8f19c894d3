"""Independent random streams named by what they are for.

Every stream of a trial is derived from the trial's seed and a path of names, such as
`derive_seed(3, "network", "policy", "hidden_0")`. Two variants with the same seed therefore
share every stream that both of them use (paired randomness), and a stream that one variant
adds never shifts another one.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def derive_seed(seed: int, *names: str | int) -> int:
    """Seed of the stream `names` of a trial: the first 63 bits of SHA-256 over seed and names.

    Args:
        seed: The trial's seed.
        names: Path of the stream, outermost first.

    Returns:
        A seed in [0, 2^63), the same on every machine and Python version.
    """
    text = "/".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def torch_generator(seed: int, *names: str | int, device: str | torch.device = "cpu") -> torch.Generator:
    """A torch generator on `device` at the start of the stream `names`."""
    return torch.Generator(device=device).manual_seed(derive_seed(seed, *names))


def numpy_generator(seed: int, *names: str | int) -> np.random.Generator:
    """A numpy generator (PCG64) at the start of the stream `names`."""
    return np.random.default_rng(derive_seed(seed, *names))
