"""Servers that end with the process which started them, also where that is killed and can stop nothing."""

WITH_PARENT = ("setpriv", "--pdeathsig", "KILL", "--")
"""Before a command: the kernel kills it when the thread ends that started it."""
