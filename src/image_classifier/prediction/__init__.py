"""src/predict.py: classifying images.

explanation   heat maps of the regions that support a prediction
"""
