"""The commands as functions: what one types in a notebook becomes what the library works with.

Data and models are paths, settings are keywords, results are typed, and progress shows where somebody looks: as a bar
on a terminal, as a line that changes in a notebook, and elsewhere through the logger "cnn_tl". Nothing of the process
is left changed, neither signal handlers nor settings of torch, and errors are raised, not printed.
"""
