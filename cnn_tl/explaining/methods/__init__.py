"""One file a method: from a model and an image to a heat map or to tiles."""
