"""Plots, drawn by matplotlib without a display: learning curves, range tests, explanations, robustness, kernels.

Only this package imports matplotlib, inside its functions. It draws what it is given, and computes no results.
"""
