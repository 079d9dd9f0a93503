"""src/predict.py: classifies images.

explanation   heat maps of the regions that support a prediction
"""
