"""What every room needs: errors, files, devices, seeds, signals, processes, statistics. Imports no other room."""
