"""What providers' APIs look like: a file for the calls of each, a file for its answers. Pure.

Imports nothing of Headgate's. Read `dialect.py` first: what a dialect must say.
"""
