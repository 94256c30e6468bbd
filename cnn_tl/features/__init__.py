"""The features of a frozen network: computed in batches, as fast as this machine allows, and keyed for the cache.

`embedding` computes them, `speed` measures and chooses precision, batch size and compilation, `cache_keys` says what
determines a feature. Which features a run needs is decided in `training/modes/features.py`; `cache/` stores them.
"""
