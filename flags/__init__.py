"""Flag evaluation, and the decision about each user that it leads to. Read `decision.py` first."""
