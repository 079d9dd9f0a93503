"""Experiments, as commands read them: no stage depends on this.

store       experiments and their files, out of Git and DVC's cache
results     an experiment's parameters, metrics, curves and predictions
arguments   types of command-line arguments
"""
