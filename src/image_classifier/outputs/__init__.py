"""Outputs of the stages train and evaluate: the model file and the logs.

batches          feeds prepared arrays to TensorFlow in batches
predicting       computes a model's probabilities for prepared images
model_file       saves and loads models/model.keras
model_contents   checks that a model file contains nothing harmful
metadata         the metadata in a model file
live             adapts DVCLive
gpu_use          reads the use and the memory of GPUs
report           renders the charts of report.html
result_files     replaces a stage's result files as a whole
prediction_log   logs a model's predictions, in both stages
sheets           sheets of images with their predictions
git              runs Git commands
"""
