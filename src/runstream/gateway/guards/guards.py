"""The guards of one process, as configured."""

from dataclasses import dataclass

from runstream.gateway.guards.input import Found, InputGuard
from runstream.gateway.guards.moderation import Moderation
from runstream.gateway.guards.output import Screen


@dataclass(frozen=True, slots=True)
class Guards:
    """`of_output` says whether answers are moderated too; otherwise they are shown as they come."""

    input: InputGuard
    moderation: Moderation | None = None
    of_output: bool = False

    def screen(self, *, moderation_required: bool, found: Found) -> Screen | None:
        """For one answer."""
        if self.moderation is None or not self.of_output:
            return None
        return Screen(self.moderation, required=moderation_required, found=found)

    async def aclose(self) -> None:
        if self.moderation is not None:
            await self.moderation.aclose()
