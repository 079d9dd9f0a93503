"""Outputs of the stages train and evaluate: the model for deployment, and the logs.

openvino_file    saves and loads models/openvino, the network of models/model.keras for deployment
model_contents   checks that a model file contains nothing harmful
metadata         the metadata in both model files
live             adapts DVCLive
gpu_use          reads the use and the memory of GPUs
report           renders the charts of report.html
result_files     replaces a stage's result files as a whole
prediction_log   logs a model's predictions, in both stages
sheets           sheets of images with their predictions
git              runs Git commands
"""
