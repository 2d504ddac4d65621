"""The `runstream` command."""

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer

from runstream.cli.data import data, encryption
from runstream.cli.keys import keys, tokens
from runstream.cli.options import RunId
from runstream.cli.runs import runs
from runstream.cli.tenants import flags, plans, tenants
from runstream.client.access import DEFAULT_URL
from runstream.domain.errors import RunstreamError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.add_typer(keys, name="keys")
app.add_typer(tokens, name="tokens")
app.add_typer(runs, name="runs")
app.add_typer(encryption, name="encryption")
app.add_typer(tenants, name="tenants")
app.add_typer(plans, name="plans")
app.add_typer(flags, name="flags")
app.add_typer(data)

Host = Annotated[str, typer.Option(help="Address to listen on.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on.")]
Url = Annotated[str, typer.Option(envvar="RUNSTREAM_URL", help="Where Runstream answers.")]
Key = Annotated[
    str | None,
    typer.Option(
        envvar="RUNSTREAM_KEY", help="An API key, better in the environment. Else that of dev, if it is here."
    ),
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
