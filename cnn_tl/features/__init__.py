"""The features of a frozen network: computed as fast as this machine allows, and keyed for the cache.

`onnx_engine` computes them on a CPU, `embedding` in torch, `stream` runs either over batches, and `cache_keys` says
what determines a feature. Which features a run needs is decided in `training/modes/features.py`; `cache/` stores them.
"""
