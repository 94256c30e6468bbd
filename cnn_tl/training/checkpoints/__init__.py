"""Checkpoints of a run, how they are restored, and the digests that detect changes in a run folder.

The files of a finished run are written by `training/save_model.py` and `training/result.py`.
"""
