"""`python -m proxy` is `headgate`."""

from proxy.cli import main

main()
