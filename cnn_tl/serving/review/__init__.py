"""A page on this machine to decide by keyboard what a doctor found suspicious.

`suspects` reads what doctor wrote, `review` is what the page asks for, `server` answers it; doctor/decisions.py writes
down what was decided. Works in the light installation: neither torch nor the packages of `serve` are needed.
"""
