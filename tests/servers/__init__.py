"""Servers on loopback for tests: fakes that speak the real protocol, real ones, and Headgate itself."""
