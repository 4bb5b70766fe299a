"""Tests of `flags/rollout/policy/`."""
