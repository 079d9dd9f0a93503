"""Stage train: fit a network on prepared arrays.

steps          the steps of a training, shared by src/train.py and the trials of a sweep
classifier     builds the network that is fitted and the model that is saved
batches        feeds prepared arrays to TensorFlow in batches
features       trains on features, without tf.data
optimization   the loss, the optimizer and its learning rate
callbacks      Keras callbacks that run after each epoch
checkpoint     resumes an interrupted training after its last finished epoch
model_file     saves and loads models/model.keras
distribution   trains on several devices of one or several machines
"""
