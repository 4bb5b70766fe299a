"""Replicas that share their runs through Valkey: records, leases, takeover after a failure, encryption.

Stands behind the port `runs.shared`. Read `shared_runs.py` first.
"""
