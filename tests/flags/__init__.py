"""Tests of `flags/`."""
