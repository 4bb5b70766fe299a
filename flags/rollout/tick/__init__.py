"""What one tick of the controller is made of: its record, its evidence, the flag found and the flag wanted.

Imports `evidence`, `policy`, `verdict`, `writing` and `reporting`. Read `controller.py` in front first.
"""
