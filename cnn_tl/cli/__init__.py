"""The command line: each command turns flags into arguments, calls the library once, and prints the result.

Only this package prints; errors become one line and an exit code in `app`. The work itself is done below: training/,
inference/, evaluating/, explaining/, exporting/, serving/.
"""
