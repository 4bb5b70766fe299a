"""The flag, as the one writer reads and writes it: each write needs the lease, and is read back."""

import logging

from flags.errors import FlagAdminError, LeaseError, LeaseLost
from flags.rollout.leases.lease import Fence, Lease
from flags.rollout.writing.flag_admin import Flag, FlagAdmin, Strategy

logger = logging.getLogger("headgate.rollout")

WRITE_S = 15.0
"""The longest that a write may take with the reads before and after it; the lease must last for it."""


class FlagWriter:
    """One flag. The caller owns the port and the lease."""

    def __init__(self, admin: FlagAdmin, lease: Lease) -> None:
        self._admin = admin
        self._lease = lease
        self.problem = ""
        """Why the last write was not done; "" after one that was."""

    async def read(self) -> tuple[Flag | None, str]:
        """The flag, or None and why it cannot be read."""
        try:
            return await self._admin.read(), ""
        except FlagAdminError as exc:
            return None, str(exc)

    async def write(self, strategy: Strategy, flag: Flag, fence: Fence) -> Flag | None:
        """The flag as it was read back; None where it was not written. Raises LeaseLost."""
        try:
            written = await self.write_once(strategy, flag, fence)
        except LeaseLost:
            raise
        except (LeaseError, FlagAdminError) as exc:
            logger.warning("rollout: not written: %s", exc)
            self.problem = str(exc)
            return None
        self.problem = ""
        return written

    async def write_once(self, strategy: Strategy, flag: Flag, fence: Fence) -> Flag:
        """The same, without `problem`. Raises LeaseError and FlagAdminError."""
        await self._lease.check(fence, for_s=WRITE_S)
        return await self._admin.write(strategy, flag)
