"""Types of a policy's values: durations, rates, addresses, secrets, and what is refused in each."""

import re
import ssl
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationInfo,
    model_validator,
)

from flags.tls import trusting

_DURATION = re.compile(r"([1-9][0-9]{0,6})([smhd])")
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
LONGEST = timedelta(days=366)


def _duration(value: Any) -> timedelta:
    found = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError('must be a whole number with its unit: "90s", "10m", "24h" or "7d"')
    duration = timedelta(seconds=int(found[1]) * _UNITS_S[found[2]])
    if duration > LONGEST:
        raise ValueError(f"must be at most {LONGEST.days}d")
    return duration


def _web_address(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.port == 0:
        raise ValueError("must be a URL with http or https, for example http://prometheus:9090")
    if parts.query or parts.fragment:
        raise ValueError("must have no query and no fragment")
    if parts.username or parts.password:
        raise ValueError("must not carry credentials, which would be logged: use `token`")
    return value.rstrip("/")


def _secret_address(value: SecretStr) -> SecretStr:
    try:
        parts = urlsplit(value.get_secret_value())
        found = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:  # its text may hold the secret
        found = None
    if not found:
        raise ValueError("must be a URL with http or https")
    return value


def _address(value: str) -> str:
    host, colon, port = value.rpartition(":")
    if not (host and colon and port.isdecimal() and 0 < int(port) < 65536):
        raise ValueError("must be host:port, for example 127.0.0.1:9465")
    return value


def _header_value(value: SecretStr) -> SecretStr:
    if not re.fullmatch(r"[\t\x20-\x7e]+", value.get_secret_value()):
        raise ValueError("must be printable ASCII in one line, and not empty")
    return value


def _flag_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.~-]{1,100}", value):
        raise ValueError(
            "must be 1 to 100 of letters, digits, '_', '.', '~' and '-', as Unleash names things"
        )
    return value


def _route_name(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,62}", value):
        raise ValueError("must be a route's name in headgate.yaml: 1 to 63 of a-z, 0-9, '-' and '_'")
    return value


def _authorities(value: Path) -> Path:
    try:
        trusting(value, strict=True)
    except ssl.SSLError:
        raise ValueError("must be a PEM file of certificates") from None
    except OSError as exc:
        raise ValueError(f"cannot be read: {exc.strerror}") from None
    return value


def _beside_the_policy(value: Path, info: ValidationInfo) -> Path:
    base: Path = (info.context or {}).get("base", Path())
    return base / value


DurationText = Annotated[str, Field(pattern=f"^{_DURATION.pattern}$")]
Duration = Annotated[timedelta, BeforeValidator(_duration, json_schema_input_type=DurationText)]
Whole = Annotated[int, Field(strict=True)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Seconds = Annotated[Number, Field(gt=0, le=86_400)]
Rate = Annotated[Number, Field(gt=0, lt=1)]
Yes = Annotated[bool, Field(strict=True)]
Address = Annotated[str, AfterValidator(_address)]
Url = Annotated[str, AfterValidator(_web_address)]
SecretUrl = Annotated[SecretStr, AfterValidator(_secret_address)]
Secret = Annotated[SecretStr, AfterValidator(_header_value)]
FlagName = Annotated[str, AfterValidator(_flag_name)]
RouteName = Annotated[str, AfterValidator(_route_name)]
File = Annotated[Path, AfterValidator(_beside_the_policy)]
Authorities = Annotated[File, AfterValidator(_authorities)]


class PolicyBlock(BaseModel):
    """A block of the policy: frozen, and closed to names it does not know."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True
    )


class OneOf(PolicyBlock):
    """A block that holds exactly one of its names."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        names = list(type(self).model_fields)
        if sum(getattr(self, name) is not None for name in names) != 1:
            raise ValueError(f"must have exactly one of {', '.join(f'`{name}`' for name in names)}")
        return self
