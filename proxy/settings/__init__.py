"""Settings: the file, what is doubtful in it, and the routes compiled from it.

Imports `settings.blocks`, which has the blocks of the file and their rules. Read `settings.py` first;
`file.py` says what is wrong with a file.
"""
