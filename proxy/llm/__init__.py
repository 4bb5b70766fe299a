"""The model port: the upstream's calls to its language model pass here, and their tokens go to the run.

Imports `llm.taps`, `llm.assembly`, `llm.aws`, `relay`, `upstream` and `observe`. Read `port.py` first, then
`call.py`: one call.
"""
