"""What networks are made of: the arithmetic of their layers, the layer table of any network, and kernels by hand.

Behind `cnn-tl inspect` and `cnn-tl convolve`. It looks at shapes and counts only: what a trained network sees in an
image is in `explaining/`, its weights and its training are in `networks/` and `training/`.
"""
