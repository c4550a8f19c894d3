"""Callbacks: RLlib's (diagnostics on every update) and Tune's (progress, W&B, dashboard metrics)."""
