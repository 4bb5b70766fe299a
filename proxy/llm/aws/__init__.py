"""What Amazon Bedrock needs of botocore: the framing of its streams, and signatures. botocore is an extra.

Imports `llm.assembly` and `errors`. Read `signing.py` first.
"""
