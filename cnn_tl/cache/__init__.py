"""The cache on this machine: features and decoded images in checked rows, evicted when the disk or the budget is full.

`store` opens it, `space` finds rows, `shard` is their file format, `eviction` makes room, `housekeeping` serves the
command `cnn-tl cache`. What a row means, and so its key, is decided by those who compute it (`features/cache_keys.py`,
`training/image_store.py`); `networks/info.py` writes what is remembered of networks.
"""
