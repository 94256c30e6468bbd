"""Labels that look wrong: probabilities of images that no fit has seen, how many are wrong, and which first."""
