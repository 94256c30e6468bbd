"""One file per format: each writes a bundle in its format, and reads it back with the tool that the format is for.

CONTRIBUTING.md says how to add one.
"""
