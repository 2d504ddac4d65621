"""The second wall: Postgres shows a statement the rows of those tenants alone that it says it is for.

A statement of the application's is `bound`: it has one more parameter, `whose`, the tenants that it is for. The
parameter is of a domain whose check notes them as a setting of the transaction, which the policies of all tables that
have a tenant go by. Postgres examines a domain's check when a value is first converted to the domain, which for a
parameter is before anything of the statement is planned or run; and outside of a transaction block, the transaction is
the statement. So whose it is costs no round trip and leaves nothing on the connection, however the statement ends.
A statement that is not bound, or whose parameter is null, is shown nothing.

https://www.postgresql.org/docs/current/sql-createdomain.html and protocol-flow.html, "Extended Query"
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Final, TypeVar

from sqlalchemy import Table, bindparam, select
from sqlalchemy.sql.selectable import HasCTE
from sqlalchemy.types import UserDefinedType

DOMAIN: Final = "runstream_tenants"
SETTING: Final = "runstream.tenants"

StatementT = TypeVar("StatementT", bound=HasCTE)


class Role(StrEnum):
    """Whose rights a connection has."""

    APPLICATION = "runstream_app"
    """Sees and writes the rows of the tenants that a statement is bound to, and tables that have a tenant alone."""
    SWEEP = "runstream_sweep"
    """Sees and writes all rows: for what is nobody's in particular, or is asked before it is known whose it is."""


class Tenants(UserDefinedType[Sequence[str]]):
    """A parameter of the domain itself: one that were cast to it would be converted too late."""

    cache_ok = True
    render_bind_cast = True

    def get_col_spec(self, **_: Any) -> str:
        return DOMAIN


WHOSE = bindparam("whose", type_=Tenants())
_WHOSE = select(WHOSE).cte("whose")


def bound(statement: StatementT) -> StatementT:
    """The statement, to be given as `whose` the tenants that it is for."""
    return statement.add_cte(_WHOSE)


def tenant_column(table: Table) -> str | None:
    """The column that says whose a row is; None where the table has no tenants' rows."""
    if table.name == "tenants":
        return "id"
    return "tenant" if "tenant" in table.c else None
