"""Stages train and evaluate: the model file and the logs.

batches          prepared arrays as batches for TensorFlow
predicting       a model's probabilities of prepared images
model_file       saving and loading models/model.keras
model_contents   what a model file may hold
metadata         what a model file says of itself
live             DVCLive, adapted
prediction_log   what both stages log of a model's predictions
sheets           sheets of images with their predictions
git              what is asked of Git
"""
