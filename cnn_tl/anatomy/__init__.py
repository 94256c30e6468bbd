"""What networks are made of: the arithmetic of their layers, any network's table, and kernels by hand."""
