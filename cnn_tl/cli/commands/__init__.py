"""One file per command: turn flags into a recipe or arguments, call the library once, print the result."""
