"""The policy: steps, guardrails and freezes, as `rollout.yaml` states them, and their rules.

Read `policy.py` first.
"""
