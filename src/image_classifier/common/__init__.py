"""Modules that every stage uses.

params          params.yaml: allowed values, and combinations that contradict each other
strict_yaml     reads YAML files with fixed keys and explains every mistake in them
errors          the error that is shown to the user without a traceback
script          runs a script: signals, one-line errors, stops when DVC stops
progress        shows the progress of a step
stage_inputs    detects changes to a stage's inputs while it runs, and hashes them
disk            crash-safe writes and checks of free space
hashing         hashes of files
class_folders   finds images in class folders, optionally below split folders
raw_data        lists the images of data/raw
remote          reads images from buckets and URLs
processes       calls functions in other processes
decoding        decodes images in batches, ahead of their consumer
images          decodes image files to pixels
"""
