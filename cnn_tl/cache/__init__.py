"""What was computed once and is kept on this machine: features, of which every row is checked when it is read."""
