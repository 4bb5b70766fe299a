"""The relay, with bytes at both ends."""
