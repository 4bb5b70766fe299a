"""How the share of users is moved: evidence, verdict, move, in three pure steps, and one writer.

Read `moves.py` first: what follows from what is known.
"""
