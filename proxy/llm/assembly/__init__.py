"""The port of all dialects, and the rules by which the pieces of a stream become one answer. Pure.

Imports nothing of Headgate's. Read `dialect.py` first, then `json_dialect.py`: what most dialects have in
common.
"""
