"""timm's models and their pretrained weights: which exist, where they are, how they are read."""
