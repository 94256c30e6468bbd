"""How good a trained model is on labelled pictures, and how well its answers hold when the pictures change."""
