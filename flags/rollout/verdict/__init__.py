"""Verdicts: sequential tests of the evidence, guardrail by guardrail. Pure.

Imports `evidence` and `policy`. Read `verdict.py` first: what a test says; then `evaluator.py`, which asks
all tests of a rollout.
"""
