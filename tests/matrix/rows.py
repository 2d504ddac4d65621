"""What each route takes, and what it does. What is answered to whom follows from that: see `expected`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from caller import body
from matrix.columns import Column
from matrix.things import Thing
from runstream.domain.principal import RunAct, Scope


@dataclass(frozen=True)
class Row:
    """`scope` is None where a route is open to all, and `ok` what it answers to who may ask.

    `of` is the kind of thing that the address names, each time a new one; `shows` is the kind of which all are shown
    that who asks may see; `act` is what is done to a run, of what a token for one can allow; `made` has the thing that
    the answer names be of who asked. Who names no tenant is shown all of it where it is `of_all`. What is for
    `operators` is so whether or not they name a tenant; with `own`, who administers a tenant may as well, of its own.
    """

    scope: Scope | None
    ok: int
    of: str | None = None
    shows: str | None = None
    act: RunAct | None = None
    made: bool = False
    of_all: bool = False
    body: dict[str, Any] | None = None
    query: str = ""
    operators: bool = False
    own: bool = False


ROWS = {
    "GET /healthz": Row(None, 200),
    "GET /readyz": Row(None, 200),
    "GET /metrics": Row(None, 200),
    "POST /v1/runs": Row(Scope.RUNS_WRITE, 202, made=True, body=body("sim:1")),
    "GET /v1/runs": Row(Scope.RUNS_READ, 200, shows="completed run"),
    "GET /v1/runs/{run_id}": Row(Scope.RUNS_READ, 200, of="completed run", act=RunAct.READ),
    "GET /v1/runs/{run_id}/events": Row(Scope.RUNS_READ, 200, of="completed run", act=RunAct.READ),
    "GET /v1/runs/{run_id}/attempts": Row(Scope.RUNS_READ, 200, of="completed run", act=RunAct.READ),
    "DELETE /v1/runs/{run_id}": Row(Scope.RUNS_WRITE, 204, of="completed run"),
    "POST /v1/runs/{run_id}/cancel": Row(Scope.RUNS_WRITE, 200, of="queued run", act=RunAct.CANCEL),
    "POST /v1/runs/{run_id}/retry": Row(Scope.RUNS_WRITE, 202, of="failed run"),
    "POST /v1/runs/{run_id}/feedback": Row(Scope.RUNS_WRITE, 200, of="completed run", body={"event": "accepted"}),
    "GET /v1/runs/{run_id}/feedback": Row(Scope.RUNS_READ, 200, of="judged run"),
    "GET /v1/feedback": Row(Scope.USAGE_READ, 200, shows="feedback", query="?group_by=prompt_version"),
    "POST /v1/runs/{run_id}/token": Row(Scope.RUNS_READ, 201, of="completed run", body={}),
    "GET /v1/usage": Row(Scope.USAGE_READ, 200, shows="spend", query="?group_by=model"),
    "GET /v1/limits": Row(Scope.USAGE_READ, 200),
    "POST /v1/keys": Row(Scope.ADMIN, 201, body={"kind": "user", "user": "eve"}),
    "GET /v1/keys": Row(Scope.ADMIN, 200, shows="key"),
    "POST /v1/keys/{key_id}/rotate": Row(Scope.ADMIN, 201, of="key", body={}),
    "DELETE /v1/keys/{key_id}": Row(Scope.ADMIN, 204, of="key"),
    "GET /v1/audit": Row(Scope.ADMIN, 200, shows="entry", of_all=True, query="?limit=100"),
    "POST /v1/tenants": Row(Scope.ADMIN, 409, operators=True, body={"id": "acme"}),
    "GET /v1/tenants": Row(Scope.ADMIN, 200, operators=True),
    "GET /v1/tenants/{tenant_id}": Row(Scope.ADMIN, 200, of="tenant", operators=True, own=True),
    "PATCH /v1/tenants/{tenant_id}": Row(Scope.ADMIN, 200, of="tenant", operators=True, body={"status": "active"}),
    "DELETE /v1/tenants/{tenant_id}": Row(Scope.ADMIN, 409, of="tenant", operators=True),
    "GET /v1/plans": Row(Scope.ADMIN, 200, shows="plan", operators=True),
    "GET /v1/plans/{name}": Row(Scope.ADMIN, 200, of="plan", operators=True),
    "PUT /v1/plans/{name}": Row(Scope.ADMIN, 200, of="plan", operators=True, body={"retention_days": 7}),
    "DELETE /v1/plans/{name}": Row(Scope.ADMIN, 204, of="plan", operators=True),
    "GET /v1/flags": Row(Scope.ADMIN, 200, shows="flag", operators=True),
    "GET /v1/flags/{name}": Row(Scope.ADMIN, 200, of="flag", operators=True),
    "PUT /v1/flags/{name}": Row(Scope.ADMIN, 200, of="flag", operators=True, body={"of": {"model": "nothing"}}),
    "DELETE /v1/flags/{name}": Row(Scope.ADMIN, 204, of="flag", operators=True),
    "DELETE /v1/users/{user}": Row(Scope.ADMIN, 202),
    "GET /v1/erasures/{erasure_id}": Row(Scope.ADMIN, 200, of="erasure"),
    "GET /v1/export": Row(Scope.ADMIN, 200, shows="completed run"),
    "POST /v1/webhooks": Row(Scope.ADMIN, 201, body={"url": "https://example.com/"}),
    "GET /v1/webhooks": Row(Scope.ADMIN, 200, shows="webhook"),
    "GET /v1/webhooks/{webhook_id}": Row(Scope.ADMIN, 200, of="webhook"),
    "PATCH /v1/webhooks/{webhook_id}": Row(Scope.ADMIN, 200, of="webhook", body={"description": "changed"}),
    "DELETE /v1/webhooks/{webhook_id}": Row(Scope.ADMIN, 204, of="webhook"),
    "POST /v1/webhooks/{webhook_id}/rotate": Row(Scope.ADMIN, 200, of="webhook"),
    "POST /v1/webhooks/{webhook_id}/test": Row(Scope.ADMIN, 202, of="webhook"),
    "GET /v1/webhooks/{webhook_id}/deliveries": Row(Scope.ADMIN, 200, of="webhook"),
    "POST /v1/webhooks/{webhook_id}/deliveries/{delivery_id}/redeliver": Row(Scope.ADMIN, 202, of="delivery"),
}


def expected(row: Row, column: Column, thing: Thing | None) -> int:
    if row.scope is None:
        return row.ok
    everywhere = row.of_all or (row.operators and column.operator)
    refusals = (
        (column.refused, column.refused is not None),
        (403, not _may(row, column) or (row.operators and not column.operator and not row.own)),
        (400, (column.tenant is None and not everywhere) or (row.made and column.maker is None)),
        (404, thing is not None and not column.sees(thing)),
    )
    return next((status for status, applies in refusals if status and applies), row.ok)


def may_see(row: Row, column: Column, thing: Thing) -> bool:
    return column.sees(thing) or (row.of_all and column.tenant is None)


def _may(row: Row, column: Column) -> bool:
    return row.scope in column.scopes if column.only is None else row.act in column.only.may
