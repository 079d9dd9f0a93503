"""What HTML pages share.

templates    templates filled with data, and the files written
thumbnails   embeds images at a size that fits the page
shared.css   colours, buttons, tables, and images with their text
shared.js    creates elements from data
"""
