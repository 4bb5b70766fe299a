"""What SIGHUP may change, and what takes a restart. Pure."""

from proxy.settings.settings import Settings


def addresses(settings: Settings) -> dict[str, str | None]:
    """Where the settings listen, by their names."""
    model = settings.llm.listen if settings.llm is not None else None
    return {"listen": settings.listen, "admin": settings.admin, "llm.listen": model}


def needs_restart(now: Settings, then: Settings, *, switch_engaged: bool) -> list[str]:
    """What keeps a process with the first settings from going on with the second.

    Args:
        switch_engaged: the local kill switch is on, by the file that the first settings name.
    """
    listens = addresses(then)
    problems = [
        f"{name}: the parent process listens on {before or 'no such port'}; only a restart can change that"
        for name, before in addresses(now).items()
        if listens[name] != before
    ]
    if switch_engaged and now.flags.kill_file != then.flags.kill_file:
        problems.append("flags.kill_file: cannot change while the kill switch is on, which would release it")
    return problems
