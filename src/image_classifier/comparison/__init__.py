"""src/report.py: one HTML page that compares experiments.

page              the page, and what it shows as plain data
changes           test images on which experiments disagree
thumbnails        images made small enough for the page
comparison.html   its template, into which the data is put
"""
