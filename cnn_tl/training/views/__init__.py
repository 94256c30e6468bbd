"""Random views of training images as batched tensor operations, from uint8 sources on the device.

Pure functions of sources and drawn views. `data/views/augment.py` draws the views and computes the same ones with
Pillow, image by image; where sources lie and which batches they form is decided elsewhere.
"""
