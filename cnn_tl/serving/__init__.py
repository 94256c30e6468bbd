"""A trained model behind HTTP: an API for programs, a page for people."""
