"""The command line: flags in, one library call, the result printed. Only this floor prints."""
