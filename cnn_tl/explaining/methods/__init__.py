"""What the methods of `cnn-tl explain` compute, without drawing it: one file for each family of methods."""
