"""Stage evaluate: how good the model is on the test images.

steps     the steps of an evaluation, which src/evaluate.py and each trial put together
metrics   metrics and curves of a classifier, from its probabilities
"""
