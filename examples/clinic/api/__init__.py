"""The paths, one module for each subject. Each module has its `ROUTES`."""
