"""The words of `headgate doctor`, and its way of asking: a diagnosis, one bounded request, and the two
clocks.

Read `diagnosis.py` first.
"""
