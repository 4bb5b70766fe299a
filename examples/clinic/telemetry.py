"""Zero-code OpenTelemetry: this program again, as the argument of `opentelemetry-instrument`.

Trace context that comes with a request then goes on to every call of the model: `traceparent`, `tracestate`
and `baggage`. Nothing is exported. Variables of the environment take precedence.
"""

import os
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

DEFAULTS = {
    "OTEL_TRACES_EXPORTER": "none",
    "OTEL_METRICS_EXPORTER": "none",
    "OTEL_LOGS_EXPORTER": "none",
    "OTEL_PROPAGATORS": "tracecontext,baggage",
}


def restart(arguments: Sequence[str]) -> NoReturn:
    """Become the instrumented clinic, in this very process.

    Workers are instrumented too: they are new interpreters, and what instruments an interpreter is on the
    `PYTHONPATH` that they inherit.
    """
    launcher = Path(sysconfig.get_path("scripts"), "opentelemetry-instrument")
    command = [str(launcher), sys.executable, "-m", "examples.clinic", *arguments]
    os.execve(launcher, command, DEFAULTS | os.environ)
