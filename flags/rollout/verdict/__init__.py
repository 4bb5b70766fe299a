"""Verdicts: sequential tests of the evidence, guardrail by guardrail. Pure.

Imports `evidence` and `policy`. Read `evaluator.py` first, then `e_processes.py`.
"""
