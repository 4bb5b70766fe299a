"""Tests of `proxy/sources/`."""
