"""Stage prepare: what no training parameter changes is computed once.

splits        which image is for training, validation and test
features      hashes, pixels and features of images
inference     a network that is not trained, as fast as this machine can
engines       where it is computed: on this machine, or on those of a Ray cluster
ray_cluster   joining a Ray cluster
"""
