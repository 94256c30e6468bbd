"""A page on this machine to decide by keyboard what a doctor found suspicious.

`suspects` reads what doctor wrote, `decisions` is the log and the two files made from it, `review` what the page asks
for, `server` answers it. Works in the light installation: neither torch nor the packages of `serve` are needed.
"""
