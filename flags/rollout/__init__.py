"""The controller that moves the share of users: evidence, verdict, move, in three pure steps, and one writer.

Read `moves.py` first: what follows from what is known.
"""
