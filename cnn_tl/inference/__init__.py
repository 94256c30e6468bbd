"""Predicting with a trained model: finding the images, loading the classifier, and writing the answers to a file.

Not here: training and its networks (training/, networks/), measuring accuracy (evaluating/), and tables for a terminal
(cli/terminal/). A .onnx file is run without torch.
"""
