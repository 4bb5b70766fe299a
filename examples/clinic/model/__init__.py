"""A language model for demonstrations: OpenAI's chat completions, made-up text, a set speed."""
