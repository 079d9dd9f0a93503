"""Stage train: from prepared arrays to the network's weights.

steps          the steps of a training, which src/train.py and each trial put together
classifier     the network that is fitted, and the model that is saved
callbacks      what Keras does after each epoch
checkpoint     where an interrupted training resumes
distribution   training on several devices, of this machine or of many
"""
