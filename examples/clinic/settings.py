"""What can be set, and where it is read: once a process, from the environment."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

DEMO_SECRET = "a secret for demonstrations, known to everybody"  # 32 bytes and more, or PyJWT warns
DEV_SERVER = "http://localhost:5173"


@dataclass(frozen=True)
class Settings:
    data_dir: Path
    """Holds the database and the PDF files. All workers share it."""

    jwt_secret: str = DEMO_SECRET
    """Signs and checks HS256 tokens."""

    is_blocking: bool = True
    """Work is done on the event loop, so one running stage freezes the whole process. Off: in threads."""

    is_demo: bool = False
    """Hands a token to anybody who asks for one. Never on where there are real patients."""

    openai_base_url: str = "http://127.0.0.1:9001/v1"
    openai_api_key: str = "none"
    openai_model: str = "clinic-synthetic"

    retry_scale: float = 1.0
    """Every sleep before a new attempt at the model is multiplied by this; 0 in tests."""

    origins: tuple[str, ...] = (DEV_SERVER,)
    """Web origins that CORS allows."""

    flags_file: Path | None = None
    """Unleash client-features JSON that the demo page may change. None: there is no such page."""

    can_mail: bool = False
    """Contact messages go to `outbox.jsonl` in the data directory. Off: they are refused."""


def read_settings(environ: Mapping[str, str]) -> Settings:
    flags_file = environ.get("CLINIC_FLAGS_FILE")
    return Settings(
        data_dir=Path(environ.get("CLINIC_DATA_DIR", "var/clinic")),
        jwt_secret=environ.get("CLINIC_JWT_SECRET", DEMO_SECRET),
        is_blocking=environ.get("CLINIC_BLOCKING", "1") == "1",
        is_demo=environ.get("CLINIC_DEMO", "0") == "1",
        openai_base_url=environ.get("OPENAI_BASE_URL", Settings.openai_base_url),
        openai_api_key=environ.get("OPENAI_API_KEY", Settings.openai_api_key),
        openai_model=environ.get("OPENAI_MODEL", Settings.openai_model),
        retry_scale=float(environ.get("CLINIC_RETRY_SCALE", "1")),
        origins=_origins(environ),
        flags_file=Path(flags_file) if flags_file else None,
        can_mail=environ.get("CLINIC_MAIL", "0") == "1",
    )


def _origins(environ: Mapping[str, str]) -> tuple[str, ...]:
    named = (environ.get("RENDER_FRONTEND_URL"), environ.get("CUSTOM_FRONTEND_URL"))
    # Naming an origin takes the development server's away: it replaces the list, it does not extend it.
    return tuple(origin for origin in named if origin) or (DEV_SERVER,)
