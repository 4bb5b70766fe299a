"""Users' histories that replicas share through the store.

Read `shared_histories.py` first.
"""
