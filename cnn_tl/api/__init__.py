"""The Python functions behind `cnn_tl.train`, `cnn_tl.predict` and the others, as a notebook or a script calls them.

They turn paths and keywords into recipes and arguments, choose how progress is shown, and name keywords in errors. The
work is done below, in training/, inference/, evaluating/, explaining/ and exporting/. A call leaves the process as it
was: signal handlers, warning filters, torch's settings.
"""
