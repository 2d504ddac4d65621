"""Options and arguments that several commands have."""

from typing import Annotated

import typer

RunId = Annotated[str, typer.Argument(metavar="RUN")]
OfTenant = Annotated[str | None, typer.Option(help="Only this tenant's.")]
Since = Annotated[
    str | None, typer.Option(help="Only what was asked for in this time: a number and s, m, h or d, such as 90m.")
]
