"""What every room needs: errors, files, locks, devices, seeds, signals, processes, statistics, formatting.

It imports no other room. Nothing about images, networks or recipes belongs here, with two exceptions: `preprocessing`
and `choices` are only data, and are read where neither torch nor Pillow may be loaded.
"""
