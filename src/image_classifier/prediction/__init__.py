"""src/predict.py: classifies images.

explanation   heat maps of the regions that support a prediction
keras_model   loads a Keras model file to classify with it
"""
