"""lop_ray: experiments on the loss of plasticity, with Ray Tune and RLlib."""

__version__ = "0.1.0"
