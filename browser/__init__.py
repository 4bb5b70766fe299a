"""What runs in a browser: plain ES modules, served under `/_headgate/`, packed for npm; nothing in Python."""
