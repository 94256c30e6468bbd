"""A folder of images -> a manifest: which subfolders are splits, which are classes, and which files are left out.

Only headers and checksums are read here; `cnn_tl.data.decoding` decodes the pixels.
"""
