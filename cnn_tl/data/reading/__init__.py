"""Decoding many image files at once: what is to be read (`jobs`), and the processes that read it (`pool`, `worker`).

Not here: how a single file is decoded (`data/decoding`), and in which batches images are wanted (`data/loader.py`).
"""
