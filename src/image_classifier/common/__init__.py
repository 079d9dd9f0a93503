"""What every stage needs.

params          params.yaml: which values are allowed, and which contradict each other
strict_yaml     YAML files with fixed keys, and what is said of a wrong one
errors          the error that a user is shown as one line
script          the start of a script: signals, one-line errors, the end with DVC
stage_inputs    what a stage reads: that it stays the same meanwhile, and a hash of it
disk            crash-safe writes, and how much room there is
hashing         hashes of files
class_folders   images in a folder for each class, perhaps with splits above them
raw_data        data/raw: its images and where they are
remote          images in buckets and at addresses
images          decoding: from an image file to pixels
"""
