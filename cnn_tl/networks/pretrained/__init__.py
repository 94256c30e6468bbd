"""timm's models and their pretrained weights: which exist, where they are, and how a weights file is read safely.

What a network does with them is in `cnn_tl.networks.backbone`.
"""
