"""Tests of `proxy/downstream/`."""
