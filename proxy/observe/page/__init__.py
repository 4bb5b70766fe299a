"""The page of the admin port: what a replica does now, for an operator who looks, and nothing of a user.

Read `board.py` first: what is shown. `served.py` serves it, with the files of this folder that browsers get.
"""
