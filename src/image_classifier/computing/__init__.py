"""Modules shared by the stages prepare, train and evaluate.

corrections        reads and writes corrections of labels
prepared           reads and writes data/prepared: the table of images, and an array per split
tensorflow_setup   imports and configures TensorFlow
"""
