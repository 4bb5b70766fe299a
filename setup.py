"""What of Headgate a wheel holds as machine code: `HEADGATE_COMPILED=1` compiles the path of every request.

The source is the same. Without the variable nothing is compiled, and all works as it is.
"""

import os
import shlex
import sys

from setuptools import setup
from setuptools.extension import Extension

COMPILED = [
    "proxy/downstream/admission.py",
    "proxy/downstream/admitting.py",
    "proxy/downstream/answering.py",
    "proxy/downstream/bodies.py",
    "proxy/downstream/client_answer.py",
    "proxy/downstream/client_request.py",
    "proxy/downstream/methods.py",
    "proxy/downstream/reading.py",
    "proxy/downstream/server.py",
    "proxy/downstream/slow_clients.py",
    "proxy/gateway.py",
    "proxy/http/forwarded.py",
    "proxy/http/framing.py",
    "proxy/http/headers.py",
    "proxy/http/http_date.py",
    "proxy/http/request_head.py",
    "proxy/http/request_rules.py",
    "proxy/llm/assembly/repeated_events.py",
    "proxy/llm/counted_calls.py",
    "proxy/llm/stream_events.py",
    "proxy/llm/taps/tap.py",
    "proxy/llm/untapped.py",
    "proxy/observe/deliveries.py",
    "proxy/observe/unmatched.py",
    "proxy/relay/outcomes.py",
    "proxy/relay/relay.py",
    "proxy/relay/relayed_request.py",
    "proxy/relay/result.py",
    "proxy/relay/sent_request.py",
    "proxy/relay/steps.py",
    "proxy/runs/shown.py",
    "proxy/settings/routes.py",
    "proxy/sources/native.py",
    "proxy/sources/native_rules.py",
    "proxy/text/chunking.py",
    "proxy/text/crowds.py",
    "proxy/text/event_log.py",
    "proxy/text/events.py",
    "proxy/text/live_text.py",
    "proxy/text/sse.py",
    "proxy/timers/wheel.py",
    "proxy/upstream/addresses.py",
    "proxy/upstream/at_once.py",
    "proxy/upstream/client.py",
    "proxy/upstream/connection.py",
    "proxy/upstream/exchange.py",
    "proxy/upstream/pool.py",
    "proxy/upstream/response.py",
    "proxy/upstream/timeouts.py",
    "proxy/viewers/batch_viewer.py",
    "proxy/viewers/leaving.py",
    "proxy/viewers/viewer.py",
    "proxy/workers/fair_share.py",
]
"""Modules whose instructions a measurement missed. A class of theirs has no subclass outside of them."""


def extensions() -> list[Extension]:
    """One library of all compiled modules, and a stub for each, that Python finds before its source."""
    # pip asks for the metadata before, of which the compiler would make all once more.
    is_build = bool({"build_ext", "bdist_wheel"} & set(sys.argv))
    if os.environ.get("HEADGATE_COMPILED") != "1" or not is_build:
        return []
    from mypyc.build import mypycify  # not needed otherwise

    made: list[Extension] = mypycify(COMPILED, group_name="headgate", opt_level="2", debug_level="0")
    for each in made:  # what the caller asks of the compiler has the last word
        each.extra_compile_args = [*each.extra_compile_args, *shlex.split(os.environ.get("CFLAGS", ""))]
    return made


setup(ext_modules=extensions())
