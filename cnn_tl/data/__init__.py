"""Images: a folder becomes a manifest, a file becomes pixels.

`decoding.image.read_image` is the only way from a file to an upright RGB image, `views.transforms.resize_and_crop` the
only one from there to the network's input (`read_pixels` does both), and `views.augment.augment` draws a random view
instead. `folders` finds the images and their classes, `manifest` lists them, `loader` reads them by threads, and
`reading` decodes many of them by processes. `training/image_store.py` decides what is kept of an image between runs,
and `cache/` stores it.
"""
