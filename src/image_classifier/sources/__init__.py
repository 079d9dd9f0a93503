"""Stage download: get a dataset and write it as class folders.

datasets    the datasets of download.dataset, each written as class folders
fetching    makes a URL, an archive or a folder available as a local folder
downloads   downloads a file over HTTP, and resumes interrupted downloads
archives    unpacks archives safely, including damaged and malicious ones
"""
