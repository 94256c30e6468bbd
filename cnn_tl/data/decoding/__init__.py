"""One image file -> upright 8-bit RGB, the same everywhere; one file for each format that needs care."""
