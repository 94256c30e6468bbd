"""The frozen part of a network: run once for each image, and kept."""
