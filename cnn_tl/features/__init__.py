"""The frozen part of a network: run once for each picture, and kept."""
