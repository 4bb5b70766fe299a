"""OpenAI's chat completions, every API of that shape, and OpenAI's responses. Pure. Read `calls.py` first."""
