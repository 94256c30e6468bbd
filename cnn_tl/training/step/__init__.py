"""One training step: targets and loss, gradients, optimizer, schedule, precision, and which parameters train.

Nothing here reads images or writes files of a run; the loop over steps is in `loop/`.
"""
