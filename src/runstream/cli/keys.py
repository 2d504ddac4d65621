"""The commands of keys, and of the secret of run tokens."""

import asyncio
from typing import Annotated

import typer

from runstream.domain.principal import Kind, Scope

keys = typer.Typer(no_args_is_help=True, help="API keys: create, list, rotate, revoke.")
tokens = typer.Typer(no_args_is_help=True, help="Run tokens: rotate the secret that they are signed with.")

KeyId = Annotated[str, typer.Argument(metavar="KEY", help="As 'runstream keys list' shows it.")]


@keys.command("create")
def create_key(
    tenant: Annotated[str | None, typer.Option(help="The tenant that the key is for; made if it is new.")] = None,
    user: Annotated[
        str | None, typer.Option(help="The user that it is for; of a server's, whose runs it makes by default.")
    ] = None,
    kind: Annotated[Kind, typer.Option(help="Who has it: docs/access.md says what each may do.")] = Kind.USER,
    scope: Annotated[
        list[Scope] | None, typer.Option(help="What it may do, each by itself; all but admin if none is named.")
    ] = None,
    expires: Annotated[str | None, typer.Option(help="How long it is good for, such as 90d; else for ever.")] = None,
) -> None:
    """Print a new key: it is shown this once, and only its hash is kept."""
    from runstream.commands.keys import create

    key = asyncio.run(create(tenant, user, kind=kind, scopes=scope or None, expires=expires))
    whose = " of ".join(name for name in (user, tenant) if name) or "an operator"
    print(f"Key for {whose}: {key}")


@keys.command("list")
def list_keys(tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None) -> None:
    """List keys, without the keys themselves."""
    from runstream.commands.keys import listed

    for line in asyncio.run(listed(tenant)):
        print(line)


@keys.command("rotate")
def rotate_key(
    key_id: KeyId,
    overlap: Annotated[str, typer.Option(help="How long the old key goes on for, 30d at most.")] = "1h",
    expires: Annotated[
        str | None, typer.Option(help="How long the new one is good for; else as long as the old one was made for.")
    ] = None,
) -> None:
    """Print a key that takes the place of another, which expires after the overlap."""
    from runstream.commands.keys import rotate

    print(f"Key in the place of {key_id}: {asyncio.run(rotate(key_id, overlap=overlap, expires=expires))}")


@keys.command("revoke")
def revoke_key(key_id: KeyId) -> None:
    """Make a key invalid, within a second in every process."""
    from runstream.commands.keys import revoke

    asyncio.run(revoke(key_id))
    print(f"Revoked {key_id}.")


@tokens.command("rotate")
def rotate_token_secret(
    overlap: Annotated[str, typer.Option(help="How long tokens that are out go on for; 0s ends all at once.")] = "24h",
) -> None:
    """Sign run tokens with a new secret, within a second in every process."""
    from runstream.commands.keys import rotate_token_secret

    asyncio.run(rotate_token_secret(overlap))
    print(f"Run tokens are signed with a new secret; those that are out go on for {overlap} at most.")
