"""The tables, a module for each. Functions take an open database and return JSON-ready rows."""
