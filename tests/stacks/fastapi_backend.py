"""FastAPI, and the ways in which its endpoints call a model."""

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import aiohttp
import httpx
import requests
from fastapi import FastAPI

URL = os.environ["MODEL_URL"] + "/v1/chat/completions"
CALL = {"model": "m", "messages": [{"role": "user", "content": "summary"}]}

app = FastAPI()
pool = ThreadPoolExecutor(4)


def text_of(completion: Any) -> dict[str, str]:
    return {"text": completion["choices"][0]["message"]["content"]}


def by_requests() -> dict[str, str]:
    return text_of(requests.post(URL, json=CALL, timeout=30).json())


@app.post("/ask/async")
async def on_the_loop() -> dict[str, str]:
    async with httpx.AsyncClient() as client:
        return text_of((await client.post(URL, json=CALL)).json())


@app.post("/ask/sync")
def in_fastapis_own_thread() -> dict[str, str]:
    return by_requests()


@app.post("/ask/pool")
async def in_a_pool_of_the_backend() -> dict[str, str]:
    return await asyncio.get_running_loop().run_in_executor(pool, by_requests)


@app.post("/ask/aiohttp")
async def by_aiohttp() -> dict[str, str]:
    async with aiohttp.ClientSession() as client, client.post(URL, json=CALL) as answer:
        return text_of(await answer.json())


@app.post("/ask/celery")
def in_a_worker_of_celery() -> dict[str, str]:
    from celery_backend import ask as task  # only where a worker is

    return {"text": task.delay().get(timeout=30)}
