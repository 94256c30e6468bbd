"""The training loop of the modes that train the backbone: batches in, epochs, validation, checkpoints."""
