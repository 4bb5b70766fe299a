"""Calls of a model with Mistral's own package: for each line of JSON one, and a line of its result."""

import json
import sys
from typing import Any

from mistralai.client import Mistral
from mistralai.client.errors import MistralError
from pydantic import BaseModel


class Dose(BaseModel):
    """A structured output."""

    mg: int


def called(call: str, url: str, headers: dict[str, str]) -> Any:
    asked = {"model": "m", "messages": [{"role": "user", "content": "a"}], "http_headers": headers}
    with Mistral(api_key="k", server_url=url) as client:
        if call == "parsed":
            return client.chat.parse(Dose, **asked).model_dump(mode="json")
        return client.chat.complete(**asked).model_dump(mode="json")


for line in sys.stdin:
    asked = json.loads(line)
    try:
        said = {"came": called(asked["call"], asked["url"], asked["headers"])}
    except MistralError as failed:
        said = {"failed": {"name": type(failed).__name__, "status": failed.status_code}}
    sys.stdout.write(json.dumps(said) + "\n")
    sys.stdout.flush()
