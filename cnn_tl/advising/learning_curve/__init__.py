"""What more images would buy: accuracy by the number of images, measured on subsets, and extrapolated to more."""
