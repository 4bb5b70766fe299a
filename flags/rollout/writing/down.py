"""Down to 0 %, for anybody who asks: it reads only the flag, and is done when a new read says so.

It needs neither the journal nor the lease. The controller never writes over a share that was lowered since
its last look, so nothing that it was about to do comes after this.
"""

from dataclasses import replace

from flags.errors import FlagAdminError, FlagChanged
from flags.rollout.writing.flag_admin import Flag, FlagAdmin
from flags.rollout.writing.marks import brought_down

ATTEMPTS = 5
"""Attempts while another client writes the flag at the same time."""


async def lower(admin: FlagAdmin) -> Flag:
    """Set 0 %; the flag as it was read back. Raises FlagAdminError where it is not known to be at 0 %."""
    for left in reversed(range(ATTEMPTS)):
        flag = await admin.read()
        try:
            title = brought_down(flag.strategy.title)
            return await admin.write(replace(flag.strategy, share=0, title=title), flag)
        except FlagChanged:
            if not left:
                raise
    raise AssertionError("unreachable")


async def kill(admin: FlagAdmin) -> Flag:
    """Turn the kill flag on, and set 0 %, each even if the other fails. Raises FlagAdminError for either."""
    problems = []
    try:
        await admin.kill(True)
    except FlagAdminError as exc:
        problems.append(f"not killed: {exc}")
    try:
        flag = await lower(admin)
    except FlagAdminError as exc:
        problems.append(f"the share is not 0 %: {exc}")
    if problems:
        raise FlagAdminError("; ".join(problems))
    return flag


async def unkill(admin: FlagAdmin) -> None:
    """Turn the kill flag off. Raises FlagAdminError while that would expose anybody."""
    flag = await admin.read()
    if flag.strategy.share or flag.others:
        beside = f" and {len(flag.others)} strategies beside it" * bool(flag.others)
        raise FlagAdminError(
            f"the share is {flag.strategy.share} %{beside}, and whom it names would stream again: "
            "go back first, with `headgate rollout rollback`, and remove what is beside it"
        )
    await admin.kill(False)
