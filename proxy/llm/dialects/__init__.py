"""What providers' APIs look like: one file a dialect, each a table of fields and how their pieces join. Pure.

Imports nothing of Headgate's. Read `dialect.py` first: what a dialect must say.
"""
