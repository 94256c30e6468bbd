"""What a run saves while it trains, how it is restored, and the digests that protect a run folder.

The files of a finished run are written by `training/save_model.py` and `training/result.py`.
"""
