"""What each path does, one module a subject. Each has its `ROUTES`."""
