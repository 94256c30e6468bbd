"""One file a mode: what `--mode freeze`, `finetune` and `lp-ft` do."""
