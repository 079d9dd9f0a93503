"""Reading experiments, for commands; no stage depends on this.

store       finds experiments and reads their files from Git and DVC's cache
results     parameters, metrics, curves and predictions of an experiment
arguments   types of command-line arguments
"""
