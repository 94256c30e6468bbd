"""LeNet-5 and GoogLeNet, which timm lacks.

Importing this package registers them with timm, so that they work like any other timm model.
"""

from cnn_tl.networks.classic import googlenet, lenet

__all__ = ["googlenet", "lenet"]
