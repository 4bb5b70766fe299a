"""Flags as a rollout reads and changes them, in Unleash or in a file: only as they were read, and read back.

Read `flag_admin.py` first: the port. `unleash_admin.py` writes to Unleash and reads back.
"""
