"""The training loop: its start, its batches, its epochs, validation and what follows the last epoch.

`loop.py` has it from the start to the weights that are kept. The mathematics of a single step, which knows nothing of
epochs, is in `step/`; what is saved along the way is in `checkpoints/`.
"""
