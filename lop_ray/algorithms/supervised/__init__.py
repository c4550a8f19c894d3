"""Supervised training on a stream of tasks: plain PyTorch, without RLlib."""
