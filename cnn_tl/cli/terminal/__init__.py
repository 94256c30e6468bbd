"""What people see: the console, progress bars, help pages, and tables of plans, results, answers and layers.

The only package that imports rich. It computes nothing: the commands give it results, and it prints them.
"""
