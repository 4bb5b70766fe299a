"""Tests of `proxy/viewers/`."""
