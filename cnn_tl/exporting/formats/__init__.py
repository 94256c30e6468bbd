"""One file a format: each writes the model and reads it back with the format's own tool."""
