"""Tests of `flags/rollout/evidence/`."""
