"""Verdicts: sequential tests of the evidence, guardrail by guardrail. Pure.

Imports `evidence` and `policy`. Read `jury.py` first.
"""
