"""Flask, behind gunicorn."""

import os

import requests
from flask import Flask

URL = os.environ["MODEL_URL"] + "/v1/chat/completions"
CALL = {"model": "m", "messages": [{"role": "user", "content": "summary"}]}

app = Flask(__name__)


@app.post("/ask/flask")
def ask() -> dict[str, str]:
    answer = requests.post(URL, json=CALL, timeout=30).json()
    return {"text": answer["choices"][0]["message"]["content"]}
