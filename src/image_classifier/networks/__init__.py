"""Stages prepare and train: networks from pixels to features.

backbones            the networks of model.backbone
efficientnet_lite0   one of them, with weights that come with pip
pytorch_checkpoint   tensors out of a PyTorch file, without PyTorch
augmentation         random changes to training images
"""
