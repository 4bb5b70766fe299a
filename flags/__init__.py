"""Who gets what: flag evaluation and the decision it leads to. Read `decision.py` first."""
