"""Settings: their types and rules, the file they come from, and the routes compiled from them.

Imports `text` for the types of sections and templates. Read `settings.py` first;
`file.py` says what is wrong with a file.
"""
