"""LeNet-5 and GoogLeNet, which timm lacks: importing this package registers them with timm, and then they are like any
other of its models."""

from cnn_tl.networks.classic import googlenet, lenet

__all__ = ["googlenet", "lenet"]
