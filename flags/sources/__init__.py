"""The sources of flags: a watched file or an Unleash server; and the kill switch of one machine.

Read `source.py` first. A source hands a checked document to the engine (`in_force.py`), and answers from
memory.
"""
