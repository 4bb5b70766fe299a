"""A Celery worker that calls a model; its queue and results are folders."""

import os
from pathlib import Path

import requests
from celery import Celery

URL = os.environ["MODEL_URL"] + "/v1/chat/completions"
CALL = {"model": "m", "messages": [{"role": "user", "content": "summary"}]}
QUEUE = Path(os.environ["QUEUE"])

for name in ("messages", "results", "control"):
    (QUEUE / name).mkdir(parents=True, exist_ok=True)

app = Celery("backend", broker="filesystem://", backend=f"file://{QUEUE / 'results'}")
app.conf.broker_transport_options = {
    "data_folder_in": str(QUEUE / "messages"),
    "data_folder_out": str(QUEUE / "messages"),
    "control_folder": str(QUEUE / "control"),
}


@app.task
def ask() -> str:
    answer = requests.post(URL, json=CALL, timeout=30).json()
    return str(answer["choices"][0]["message"]["content"])
