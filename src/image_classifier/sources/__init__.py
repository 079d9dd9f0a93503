"""Stage download: from where the dataset is to class folders.

datasets    the datasets of download.dataset, each written as class folders
fetching    a URL, an archive or a folder, brought down to a local folder
downloads   a file over HTTP, resumed where it broke off
archives    unpacking, also of archives that are damaged or made to do harm
"""
