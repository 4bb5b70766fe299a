"""`python -m examples.clinic --port 8000 --workers 2 --data DIR`"""

import os
import sys
from pathlib import Path

import click
import uvicorn

from examples.clinic import telemetry
from examples.clinic.listening import serve
from examples.clinic.store.database import prepare


@click.command(help=__doc__)
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8000, show_default=True, help="0 takes a free one.")
@click.option("--workers", default=1, show_default=True, help="Processes; each answers one stage at a time.")
@click.option("--data", default=Path("var/clinic"), show_default=True, type=click.Path(path_type=Path))
@click.option("--otel", is_flag=True, help="Under `opentelemetry-instrument`; nothing is exported.")
def main(host: str, port: int, workers: int, data: Path, otel: bool) -> None:
    if otel:
        telemetry.restart([argument for argument in sys.argv[1:] if argument != "--otel"])
    # Workers are new processes that read their settings themselves; the environment tells them.
    os.environ["CLINIC_DATA_DIR"] = str(data.resolve())
    # Before the workers: two processes that switch a new database to WAL at once get "database is locked".
    prepare(data)
    config = uvicorn.Config(
        "examples.clinic.app:create_app",
        factory=True,
        host=host,
        port=port,
        workers=workers,
        log_level="warning",
        timeout_graceful_shutdown=30,
    )
    serve(config, name="clinic")


if __name__ == "__main__":
    main()
