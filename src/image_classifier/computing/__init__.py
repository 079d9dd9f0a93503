"""Modules shared by the stages prepare, train and evaluate.

corrections        reads and writes corrections of labels
prepared           reads and writes data/prepared: the table of images, and an array per split
prepared_network   reads and writes the network in data/prepared
openvino_model     runs and extends networks that are translated to OpenVINO
"""
