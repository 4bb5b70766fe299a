"""How fast Headgate is, beside nginx and beside the proxy that everyone writes. `python -m tests.bench`."""
