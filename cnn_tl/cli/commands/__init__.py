"""One file a command: flags become a recipe or arguments, one library call follows, then what to print."""
