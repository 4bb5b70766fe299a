"""The store: Valkey's commands, the records in it, and their encryption. Knows no run of this process.

Read `records.py` first: what is stored, and under which keys.
"""
