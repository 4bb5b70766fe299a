"""Real frameworks behind Headgate, asked by real clients. `python -m tests.compat`."""
