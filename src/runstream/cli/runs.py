"""The commands of runs, for those who run the service."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

import typer

from runstream.cli.options import OfTenant, RunId, Since
from runstream.domain.errors import InvalidRequest
from runstream.domain.run import Status

runs = typer.Typer(no_args_is_help=True, help="Runs, straight at the database: list, show, retry, cancel.")


@runs.command("list")
def list_runs(
    status: Annotated[Status | None, typer.Option(help="Only runs that are so.")] = None,
    tenant: OfTenant = None,
    since: Since = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 20,
) -> None:
    """List runs, newest first, and why each one failed."""
    from runstream.commands.runs import listed

    for line in asyncio.run(listed(status=status, tenant=tenant, since=since, limit=limit)):
        print(line)


@runs.command("show")
def show_run(
    run_id: RunId,
    content: Annotated[bool, typer.Option("--content", help="What was asked and answered, too.")] = False,
) -> None:
    """Show a run, and what each of its attempts came to."""
    from runstream.commands.runs import shown

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
    from runstream.commands.runs import retry, retry_failed

    if failed and since and not run_ids:
        asyncio.run(_told("Queued again", retry_failed(since, tenant)))
    elif run_ids and not (failed or since or tenant):
        raise typer.Exit(asyncio.run(_told("Queued again", retry(run_ids))))
    else:
        raise InvalidRequest("Name runs, or say --failed and since when: --failed --since 1h.")


@runs.command("cancel")
def cancel_runs(run_ids: Annotated[list[str], typer.Argument(metavar="RUN...")]) -> None:
    """Stop runs; the text that there is is kept."""
    from runstream.commands.runs import cancel

    raise typer.Exit(asyncio.run(_told("Ended or told to stop", cancel(run_ids))))


async def _told(done: str, steps: AsyncIterator[tuple[bool, str]]) -> int:
    """Print a sentence on each and how many were done; 0 where all were."""
    succeeded, count = 0, 0
    async for success, sentence in steps:
        print(sentence, flush=True)
        succeeded, count = succeeded + success, count + 1
    print(f"{done}: {succeeded} of {count}.")
    return int(succeeded < count)
