"""Parts of one tick of the controller: the rollout so far, the evidence, the flag found and the flag wanted.

Imports `evidence`, `policy`, `verdict`, `writing` and `reporting`. Read `controller.py` in front first.
"""
