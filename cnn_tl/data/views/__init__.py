"""What the network sees of an image: the deterministic preprocessing, and the random views of training.

`training/loop/augmentation.py` does a part of the random views on the GPU, in batches.
"""
