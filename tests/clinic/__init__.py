"""Tests of `examples/clinic/`."""
