"""The settings, which each process reads once, from the environment."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from examples.clinic.llm.postprocess import POSTPROCESS

DEMO_SECRET = "a secret for demonstrations, known to everybody"  # 32 bytes and more, or PyJWT warns
DEV_SERVER = "http://localhost:5173"


@dataclass(frozen=True)
class Provider:
    """The variables of the environment that say how a provider is reached."""

    prefix: str
    """Of the variables that end in `_API_KEY` and `_MODEL`."""
    url_name: str
    url: str
    """Without the variable `url_name`: the demo's own model, never a provider."""


PROVIDERS = {
    "openai": Provider("OPENAI", "OPENAI_BASE_URL", "http://127.0.0.1:9001/v1"),
    "azure": Provider("AZURE_OPENAI", "AZURE_OPENAI_API_BASE", "http://127.0.0.1:9001"),
    "deepseek": Provider("DEEPSEEK", "DEEPSEEK_API_BASE", "http://127.0.0.1:9001/v1"),
    "gemini": Provider("GEMINI", "GOOGLE_GEMINI_BASE_URL", "http://127.0.0.1:9001"),
}


@dataclass(frozen=True)
class Model:
    """A language model and the way to it."""

    provider: str
    url: str
    """The base URL, as the provider's package has it: OpenAI's ends in `/v1`, Azure's and Gemini's do not."""
    api_key: str = "none"
    name: str = "clinic-synthetic"
    """At Azure, the deployment's."""
    api_version: str = "2024-10-21"
    """Azure's alone."""
    is_structured: bool = False
    """The text is asked for inside JSON, by a schema. Not at Gemini."""


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

    model: Model = Model("openai", PROVIDERS["openai"].url)

    postprocess: str = "off"
    """The form in which the model's text is stored. `strip`: no whitespace around it; `wrap`: under a
    heading."""

    retry_scale: float = 1.0
    """Every sleep before a new attempt at the model is multiplied by this; 0 in tests."""

    origins: tuple[str, ...] = (DEV_SERVER,)
    """Web origins that CORS allows."""

    flags_file: Path | None = None
    """Unleash client-features JSON that the demo page may change. None: there is no such page."""

    can_mail: bool = False
    """Contact messages go to `outbox.jsonl` in the data directory. Off: they are refused."""


def read_settings(environ: Mapping[str, str]) -> Settings:
    """Raises `ValueError` for a name that is none of its setting's."""
    flags_file = environ.get("CLINIC_FLAGS_FILE")
    return Settings(
        data_dir=Path(environ.get("CLINIC_DATA_DIR", "var/clinic")),
        jwt_secret=environ.get("CLINIC_JWT_SECRET", DEMO_SECRET),
        is_blocking=environ.get("CLINIC_BLOCKING", "1") == "1",
        is_demo=environ.get("CLINIC_DEMO", "0") == "1",
        model=_model(environ),
        postprocess=_one_of(tuple(POSTPROCESS), "CLINIC_POSTPROCESS", environ),
        retry_scale=float(environ.get("CLINIC_RETRY_SCALE", "1")),
        origins=_origins(environ),
        flags_file=Path(flags_file) if flags_file else None,
        can_mail=environ.get("CLINIC_MAIL", "0") == "1",
    )


def _model(environ: Mapping[str, str]) -> Model:
    name = _one_of(tuple(PROVIDERS), "LLM_PROVIDER", environ)
    provider = PROVIDERS[name]
    return Model(
        name,
        url=environ.get(provider.url_name, provider.url),
        api_key=environ.get(f"{provider.prefix}_API_KEY", Model.api_key),
        name=environ.get(f"{provider.prefix}_MODEL", Model.name),
        api_version=environ.get("AZURE_OPENAI_API_VERSION", Model.api_version),
        is_structured=environ.get("CLINIC_STRUCTURED", "0") == "1",
    )


def _one_of(names: tuple[str, ...], variable: str, environ: Mapping[str, str]) -> str:
    """The first, unless the variable names another."""
    name = environ.get(variable, names[0])
    if name not in names:
        raise ValueError(f"{variable}={name}: it is one of {', '.join(names)}")
    return name


def _origins(environ: Mapping[str, str]) -> tuple[str, ...]:
    named = (environ.get("RENDER_FRONTEND_URL"), environ.get("CUSTOM_FRONTEND_URL"))
    # Naming an origin takes the development server's away: it replaces the list, it does not extend it.
    return tuple(origin for origin in named if origin) or (DEV_SERVER,)
