"""Tests of `proxy/text/`."""
