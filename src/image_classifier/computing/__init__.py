"""What the stages that compute share: prepare writes it, train and evaluate read it.

prepared           data/prepared: the table of all images, and an array for each split
tensorflow_setup   how TensorFlow starts
"""
