"""Explaining the predictions of a trained model: heat maps, feature maps, projections, top patches and filters.

`options` checks a request without torch, `explain` writes the folder of PNGs, `drawing` has a function for each method,
and methods/ computes what is drawn. plots/ does the drawing itself; `cnn-tl inspect`, which shows the layers of a
network without any image, lives in anatomy/.
"""
