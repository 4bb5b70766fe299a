"""`headgate doctor`: asks each server that a deployment needs, from where Headgate runs, and says what to do.

Nothing here takes part in serving. Read `findings/diagnosis.py` first, then `examination.py`: what is asked,
and when.
"""
