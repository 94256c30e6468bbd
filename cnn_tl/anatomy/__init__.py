"""What networks are made of: layer arithmetic, the layer table of any network, and hand-written kernels.

Behind `cnn-tl inspect` and `cnn-tl convolve`. Only shapes and counts matter here: what a trained network sees in an
image is in `explaining/`, weights are in `networks/`, training is in `training/`.
"""
