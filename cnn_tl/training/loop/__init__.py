"""The training loop: its start, its batches, its epochs, validation and what follows the last epoch.

`loop.py` tells it from the start to the kept weights. The mathematics of a single step, which knows nothing of epochs,
is in `step/`; what is saved on the way is in `checkpoints/`.
"""
