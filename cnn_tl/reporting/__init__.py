"""Pages about models: the report of a run or an evaluation, and the comparison of several on the same images.

Not here: how a page looks (pages/) and what the figures are (metrics/).
"""
