"""Experiments that are not a training run; each writes a CSV into ``paper/results``."""
