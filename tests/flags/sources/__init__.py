"""Tests of `flags/sources/`."""
