"""What Django and Flask are asked by gunicorn, as the answers want it."""

from collections.abc import Mapping
from typing import Any


def asked(environ: Mapping[str, Any]) -> tuple[str, str, list[tuple[str, str]]]:
    """Method, target and headers."""
    names = {name: name[5:].replace("_", "-") for name in environ if name.startswith("HTTP_")}
    names |= {
        name: name.replace("_", "-") for name in ("CONTENT_TYPE", "CONTENT_LENGTH") if environ.get(name)
    }
    return environ["REQUEST_METHOD"], environ["RAW_URI"], [(names[each], environ[each]) for each in names]
