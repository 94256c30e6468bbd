"""How good a trained model is on labelled images, and how well its answers hold when the images change."""
