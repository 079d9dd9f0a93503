"""src/report.py: one HTML page that compares experiments.

page              fills the page with its data
changes           test images on which experiments disagree, and whether by luck
comparison.html   template of the page
"""
