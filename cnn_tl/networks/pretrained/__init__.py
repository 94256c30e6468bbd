"""timm's models and their pretrained weights: which exist, where they are, and how a weights file is read safely.

`networks/backbone.py` loads them into a network.
"""
