"""Tests of `flags/rollout/verdict/`."""
