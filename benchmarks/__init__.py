"""Measurements of speed, as ratios against peers in the same run."""
