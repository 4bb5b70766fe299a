"""Sources of live text: one file each, behind the port `runs.start.Source`.

Imports `runs`, `text`, `upstream`, and `llm` for the tap. Read `batch.py` first: the simplest one.
"""
