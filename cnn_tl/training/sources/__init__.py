"""Where the uint8 sources of training images lie while a loop trains, and how a step gets them on its device.

Four tiers with one interface (`sources.py`), the first that has room: the device's memory, host memory, the
cache on disk, or files that are decoded in each epoch. `tiers.py` chooses one by size; `staging.py` copies sources to
the device ahead of the step. Views are computed from them in `views/`.
"""
