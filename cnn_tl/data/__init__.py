"""Images: a folder becomes a manifest, a file becomes pixels."""
