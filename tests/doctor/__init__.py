"""Tests of `proxy/doctor/`."""
