"""Django, behind gunicorn; its settings are `django_settings.py`."""

import os

import requests
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, JsonResponse
from django.urls import path

URL = os.environ["MODEL_URL"] + "/v1/chat/completions"
CALL = {"model": "m", "messages": [{"role": "user", "content": "summary"}]}


def ask(request: HttpRequest) -> JsonResponse:
    answer = requests.post(URL, json=CALL, timeout=30).json()
    return JsonResponse({"text": answer["choices"][0]["message"]["content"]})


urlpatterns = [path("ask/django", ask)]
app = get_wsgi_application()
