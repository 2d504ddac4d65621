"""The `runstream` command."""

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated

import typer

from runstream import commands
from runstream.client.access import DEFAULT_URL
from runstream.domain.audit import Action
from runstream.domain.errors import InvalidRequest, RunstreamError
from runstream.domain.principal import Kind, Scope
from runstream.domain.run import Status

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
keys = typer.Typer(no_args_is_help=True, help="API keys: create, list, rotate, revoke.")
app.add_typer(keys, name="keys")
tokens = typer.Typer(no_args_is_help=True, help="Run tokens: rotate the secret that they are signed with.")
app.add_typer(tokens, name="tokens")
runs = typer.Typer(no_args_is_help=True, help="Runs, straight at the database: list, show, retry, cancel.")
app.add_typer(runs, name="runs")
encryption = typer.Typer(no_args_is_help=True, help="Content that is encrypted in the database: status, rotate.")
app.add_typer(encryption, name="encryption")
app.add_typer(commands.tenants, name="tenants")
app.add_typer(commands.plans, name="plans")
app.add_typer(commands.flags, name="flags")

Host = Annotated[str, typer.Option(help="Address to listen on.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on.")]
Url = Annotated[str, typer.Option(envvar="RUNSTREAM_URL", help="Where Runstream answers.")]
Key = Annotated[
    str | None,
    typer.Option(
        envvar="RUNSTREAM_KEY", help="An API key, better in the environment. Else that of dev, if it is here."
    ),
]
RunId = Annotated[str, typer.Argument(metavar="RUN")]
KeyId = Annotated[str, typer.Argument(metavar="KEY", help="As 'runstream keys list' shows it.")]
OfTenant = Annotated[str | None, typer.Option(help="Only this tenant's.")]
Since = Annotated[
    str | None, typer.Option(help="Only what was asked for in this time: a number and s, m, h or d, such as 90m.")
]


def main() -> None:
    """Run a command; an error that can be foreseen is one sentence on standard error."""
    try:
        app()
    except RunstreamError as error:
        print(f"runstream: {error.message}", file=sys.stderr)
        sys.exit(1)


@app.command()
def dev(
    host: Host = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port of the page and the API.")] = 8000,
    data: Annotated[Path, typer.Option(help="Where data are kept between starts.")] = Path(".runstream"),
) -> None:
    """Everything on this machine: Postgres, Valkey, a provider, API, worker and a page to try it on."""
    from runstream.embedded.dev import run_dev

    raise typer.Exit(run_dev(data=data, host=host, port=port))


@app.command()
def api(host: Host = "127.0.0.1", port: Port = 8000) -> None:
    """Serve the HTTP API."""
    from runstream.app import serve
    from runstream.configuration import checked

    if not serve(checked(), host, port):
        raise typer.Exit(1)


@app.command()
def worker() -> None:
    """Run generations."""
    from runstream.configuration import checked
    from runstream.worker import work

    work(checked())


@app.command()
def migrate() -> None:
    """Bring the database's tables up to date."""
    from runstream.settings import load
    from runstream.storage.command import explained
    from runstream.storage.migrate import upgrade

    with explained():
        upgrade(load().database_login)


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
    from runstream.keys import create

    key = asyncio.run(create(tenant, user, kind=kind, scopes=scope or None, expires=expires))
    whose = " of ".join(name for name in (user, tenant) if name) or "an operator"
    print(f"Key for {whose}: {key}")


@keys.command("list")
def list_keys(tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None) -> None:
    """List keys, without the keys themselves."""
    from runstream.keys import listed

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
    from runstream.keys import rotate

    print(f"Key in the place of {key_id}: {asyncio.run(rotate(key_id, overlap=overlap, expires=expires))}")


@keys.command("revoke")
def revoke_key(key_id: KeyId) -> None:
    """Make a key invalid, within a second in every process."""
    from runstream.keys import revoke

    asyncio.run(revoke(key_id))
    print(f"Revoked {key_id}.")


@tokens.command("rotate")
def rotate_token_secret(
    overlap: Annotated[str, typer.Option(help="How long tokens that are out go on for; 0s ends all at once.")] = "24h",
) -> None:
    """Sign run tokens with a new secret, within a second in every process."""
    from runstream.keys import rotate_token_secret

    asyncio.run(rotate_token_secret(overlap))
    print(f"Run tokens are signed with a new secret; those that are out go on for {overlap} at most.")


@runs.command("list")
def list_runs(
    status: Annotated[Status | None, typer.Option(help="Only runs that are so.")] = None,
    tenant: OfTenant = None,
    since: Since = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 20,
) -> None:
    """List runs, newest first, and why each one failed."""
    from runstream.operators import listed

    for line in asyncio.run(listed(status=status, tenant=tenant, since=since, limit=limit)):
        print(line)


@runs.command("show")
def show_run(
    run_id: RunId,
    content: Annotated[bool, typer.Option("--content", help="What was asked and answered, too.")] = False,
) -> None:
    """Show a run, and what each of its attempts came to."""
    from runstream.operators import shown

    for line in asyncio.run(shown(run_id, content=content)):
        print(line)


@runs.command("retry")
def retry_runs(
    run_ids: Annotated[list[str] | None, typer.Argument(metavar="RUN...")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="All that failed, each once; with --since.")] = False,
    since: Since = None,
    tenant: OfTenant = None,
) -> None:
    """Have failed or cancelled runs tried again, each as a new attempt."""
    from runstream.operators import retry, retry_failed

    if failed and since and not run_ids:
        asyncio.run(_told("Queued again", retry_failed(since, tenant)))
    elif run_ids and not (failed or since or tenant):
        raise typer.Exit(asyncio.run(_told("Queued again", retry(run_ids))))
    else:
        raise InvalidRequest("Name runs, or say --failed and since when: --failed --since 1h.")


@runs.command("cancel")
def cancel_runs(run_ids: Annotated[list[str], typer.Argument(metavar="RUN...")]) -> None:
    """Stop runs; the text that there is is kept."""
    from runstream.operators import cancel

    raise typer.Exit(asyncio.run(_told("Ended or told to stop", cancel(run_ids))))


@app.command("audit")
def list_audit(
    tenant: OfTenant = None,
    action: Annotated[Action | None, typer.Option(help="Only what was done so.", metavar="ACTION")] = None,
    target: Annotated[str | None, typer.Option(help="Only what was done to this: an id.")] = None,
    principal: Annotated[str | None, typer.Option(help="Only what this one did: the id of a key, a login.")] = None,
    since: Annotated[str | None, typer.Option(help="Only what was done in this time, such as 90m.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 20,
) -> None:
    """List who did what, newest first: docs/audit.md says what is in it."""
    from runstream.audit import listed

    asked = listed(tenant=tenant, action=action, target=target, principal=principal, since=since, limit=limit)
    for line in asyncio.run(asked):
        print(line)


@encryption.command("status")
def encryption_status(
    content: Annotated[bool, typer.Option("--content", help="Look through all rows, too.")] = False,
) -> None:
    """Which keys encrypt what is there, and whether they are given."""
    from runstream.encryption import status

    asyncio.run(_printed(status(content=content)))


@encryption.command("rotate")
def rotate_encryption(
    content: Annotated[
        bool, typer.Option("--content", help="Encrypt all content with new data keys, what is not encrypted yet too.")
    ] = False,
) -> None:
    """Wrap all data keys by the first of RUNSTREAM_ENCRYPTION_KEYS; what was interrupted goes on."""
    from runstream.encryption import rotate

    asyncio.run(_printed(rotate(content=content)))


async def _printed(lines: AsyncIterator[str]) -> None:
    async for line in lines:
        print(line, flush=True)


@app.command()
def export(
    tenant: Annotated[str, typer.Argument(metavar="TENANT")],
    user: Annotated[str | None, typer.Option(help="Only what is this user's.")] = None,
) -> None:
    """Print all that a tenant has, a JSON object a line."""
    from runstream.data import exported

    async def write() -> None:
        async for line in exported(tenant, user):
            sys.stdout.buffer.write(line)

    asyncio.run(write())


@app.command("erase-user")
def erase_user(
    tenant: Annotated[str, typer.Argument(metavar="TENANT")], user: Annotated[str, typer.Argument(metavar="USER")]
) -> None:
    """Have workers delete all that a user has asked and was answered, and revoke the user's keys."""
    from runstream.data import erase_user

    print(f"Workers erase all of {user} of {tenant} that there is till now: {asyncio.run(erase_user(tenant, user))}")


async def _told(done: str, steps: AsyncIterator[tuple[bool, str]]) -> int:
    """Print a sentence on each and how many were done; 0 where all were."""
    succeeded, count = 0, 0
    async for success, sentence in steps:
        print(sentence, flush=True)
        succeeded, count = succeeded + success, count + 1
    print(f"{done}: {succeeded} of {count}.")
    return int(succeeded < count)


@app.command()
def run(
    prompt: Annotated[str, typer.Argument(help="What to ask; '-' reads it from standard input.")],
    key: Key = None,
    url: Url = DEFAULT_URL,
    model: Annotated[str | None, typer.Option(help="Else the server's default.")] = None,
) -> None:
    """Generate, and print the text as it comes. It goes on through restarts of the server and lost connections."""
    from runstream.client.commands import Client

    raise typer.Exit(Client(url, key).run(prompt, model))


@app.command()
def tail(run_id: RunId, key: Key = None, url: Url = DEFAULT_URL) -> None:
    """Print a run's text from its beginning, and follow it to its end."""
    from runstream.client.commands import Client

    raise typer.Exit(Client(url, key).tail(run_id))


@app.command()
def cancel(run_id: RunId, key: Key = None, url: Url = DEFAULT_URL) -> None:
    """Stop a run; the text that there is is kept."""
    from runstream.client.commands import Client

    raise typer.Exit(Client(url, key).cancel(run_id))


@app.command()
def doctor() -> None:
    """Check configuration, database, migrations, Redis, providers and moderation, without spending a token."""
    from runstream.doctor.examination import examine

    raise typer.Exit(asyncio.run(examine()))


@app.command("simulate-provider")
def simulate_provider(host: Host = "127.0.0.1", port: Port = 9901) -> None:
    """Speak the providers' protocols with made-up answers, at a set pace and with set faults."""
    from runstream.providers.simulated import serve

    serve(host, port)
