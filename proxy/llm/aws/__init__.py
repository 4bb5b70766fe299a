"""The framing and the signatures of Amazon Bedrock, by botocore, which is an extra.

Imports `llm.assembly` and `errors`. Read `signing.py` first.
"""
