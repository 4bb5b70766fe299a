"""Tests of `flags/rollout/writing/`."""
