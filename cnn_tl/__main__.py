"""`python -m cnn_tl` is `cnn-tl`."""

from cnn_tl.cli.app import main

main()
