"""What is kept, one module a table. Functions take an open database and return JSON-ready rows."""
