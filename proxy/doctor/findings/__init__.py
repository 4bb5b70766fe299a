"""What `headgate doctor` says, and how it asks: a diagnosis, one bounded request, and the two clocks.

Read `diagnosis.py` first.
"""
