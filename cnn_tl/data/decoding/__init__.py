"""One image file -> upright 8-bit RGB, the same everywhere: `image.read_image`, and a file for each difficult format.

Resizing and cropping for a network is in `cnn_tl.data.views`.
"""
