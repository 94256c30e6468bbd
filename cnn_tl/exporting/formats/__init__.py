"""One file per format: each writes a bundle in its format, and reads it back with the tool that the format is for.

To add one, write such a file, enter it in `export.EXPORTERS`, and list what it supports in `options.ABILITIES`.
"""
