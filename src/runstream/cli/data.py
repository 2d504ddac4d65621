"""The commands of what is kept: its audit log, its encryption, its export, and the erasure of users."""

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Annotated

import typer

from runstream.cli.options import OfTenant
from runstream.domain.audit import Action

data = typer.Typer()
encryption = typer.Typer(no_args_is_help=True, help="Content that is encrypted in the database: status, rotate.")


@data.command("audit")
def list_audit(
    tenant: OfTenant = None,
    action: Annotated[Action | None, typer.Option(help="Only what was done so.", metavar="ACTION")] = None,
    target: Annotated[str | None, typer.Option(help="Only what was done to this: an id.")] = None,
    principal: Annotated[str | None, typer.Option(help="Only what this one did: the id of a key, a login.")] = None,
    since: Annotated[str | None, typer.Option(help="Only what was done in this time, such as 90m.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 20,
) -> None:
    """List who did what, newest first: docs/audit.md says what is in it."""
    from runstream.commands.audit import listed

    asked = listed(tenant=tenant, action=action, target=target, principal=principal, since=since, limit=limit)
    for line in asyncio.run(asked):
        print(line)


@encryption.command("status")
def encryption_status(
    content: Annotated[bool, typer.Option("--content", help="Look through all rows, too.")] = False,
) -> None:
    """Which keys encrypt what is there, and whether they are given."""
    from runstream.commands.encryption import status

    asyncio.run(_printed(status(content=content)))


@encryption.command("rotate")
def rotate_encryption(
    content: Annotated[
        bool, typer.Option("--content", help="Encrypt all content with new data keys, what is not encrypted yet too.")
    ] = False,
) -> None:
    """Wrap all data keys by the first of RUNSTREAM_ENCRYPTION_KEYS; what was interrupted goes on."""
    from runstream.commands.encryption import rotate

    asyncio.run(_printed(rotate(content=content)))


async def _printed(lines: AsyncIterator[str]) -> None:
    async for line in lines:
        print(line, flush=True)


@data.command()
def export(
    tenant: Annotated[str, typer.Argument(metavar="TENANT")],
    user: Annotated[str | None, typer.Option(help="Only what is this user's.")] = None,
) -> None:
    """Print all that a tenant has, a JSON object a line."""
    from runstream.commands.data import exported

    async def write() -> None:
        async for line in exported(tenant, user):
            sys.stdout.buffer.write(line)

    asyncio.run(write())


@data.command("erase-user")
def erase_user(
    tenant: Annotated[str, typer.Argument(metavar="TENANT")], user: Annotated[str, typer.Argument(metavar="USER")]
) -> None:
    """Have workers delete all that a user has asked and was answered, and revoke the user's keys."""
    from runstream.commands.data import erase_user

    print(f"Workers erase all of {user} of {tenant} that there is till now: {asyncio.run(erase_user(tenant, user))}")
