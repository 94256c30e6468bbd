"""What every room needs: errors, files, locks, devices, seeds, signals, processes, statistics, formatting.

It imports no other room. What is about images, networks or recipes does not belong here, with one exception:
`preprocessing` is only data, and is read where neither torch nor Pillow may be loaded.
"""
