"""What the network sees of an image: the deterministic preprocessing, and the random views of training.

A training loop on a GPU computes the same random views in batches, in `training/views/`.
"""
