"""One file per mode: what `--mode freeze`, `finetune` (also scratch) and `lp-ft` (also auto) do.

Each has `plan`, which looks up what is cached and estimates the time, and `run`, which returns an `Outcome`. The
files `features`, `backend` and `embedding_stats` belong to mode freeze. The training loop of the other
modes is in `loop/`.
"""
