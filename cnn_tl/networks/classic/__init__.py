"""The classic networks that timm lacks, registered in timm's registry by importing this module."""

from cnn_tl.networks.classic import googlenet, lenet

__all__ = ["googlenet", "lenet"]
