"""src/review.py: probable mistakes in the data.

features      features of all images, one row each
labels        labels that are probably wrong, and classes that are confused
neighbours    near duplicates, and images unlike all others
quality       images of one colour, dark, blurred or tiny
findings      what a review finds, and review.csv
page          fills the page with its data
review.html   template of the page
"""
