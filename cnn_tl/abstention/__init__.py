"""When not to answer: how far features lie from what training showed, and which errors can be promised.

Arrays in, numbers out, with numpy alone. Not here: features and heads (features/, heads/), files, and what is printed.
"""
