"""What the network sees of an image: the plain preprocessing, and the random views of training."""
