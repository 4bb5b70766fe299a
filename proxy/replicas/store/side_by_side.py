"""Contexts that are entered and left at once: each may wait for a shard that answers nothing."""

import asyncio
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from types import TracebackType
from typing import Any, Self


class SideBySide:
    """Contexts as one, of which each is entered and left in a task of its own.

    If one cannot be entered, those that were are left. Each is left to its end, whatever another one raises.
    """

    def __init__(self, contexts: Sequence[AbstractAsyncContextManager[Any]]) -> None:
        self._contexts = contexts

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            async with asyncio.TaskGroup() as group:
                for context in self._contexts:
                    group.create_task(stack.enter_async_context(context))
            stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        leaving = (context.__aexit__(kind, exc, trace) for context in self._contexts)
        for left in await asyncio.gather(*leaving, return_exceptions=True):
            if isinstance(left, BaseException):
                raise left
