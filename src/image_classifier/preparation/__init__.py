"""Stage prepare: computes once all data that do not depend on training parameters.

correcting    finds the images that corrections of labels change
splits        assigns images to training, validation and test
features      computes hashes, pixels and features of images
inference     runs a frozen network fast on a CPU
extraction    augments images and runs the network on them
network       saves the frozen network for the later stages
engines       computes on this machine or on a Ray cluster
ray_cluster   connects to a Ray cluster
"""
