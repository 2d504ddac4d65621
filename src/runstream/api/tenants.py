"""The routes of tenants, for operators; who administers a tenant sees what is kept of it."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel

from runstream.api.asking import Administering, Operating
from runstream.api.auditing import acting
from runstream.api.documents import EVERYWHERE, refusals
from runstream.api.schemas.fields import Absent
from runstream.api.schemas.tenants import (
    TenantChange,
    TenantId,
    TenantObject,
    TenantPage,
    TenantRequest,
    TenantTermsObject,
)
from runstream.api.services import Given, Services
from runstream.domain.errors import NotFound
from runstream.domain.principal import Kind, Principal
from runstream.domain.terms import Standing
from runstream.storage.terms import TenantRecord

router = APIRouter(prefix="/v1/tenants", tags=["tenants"], responses=refusals(*EVERYWHERE))


@router.post("", status_code=201, response_model=TenantObject, responses=refusals(409, 413, 415))
async def create_tenant(body: TenantRequest, asking: Operating, services: Given, request: Request) -> Response:
    """Make a tenant. A key of a tenant that is not there makes it as well."""
    created = await services.tenants.create(body.id, by=acting(asking, request))
    return _json(TenantObject.of(created), 201, {"Location": f"/v1/tenants/{created.id}"})


@router.get("", response_model=TenantPage)
async def list_tenants(
    asking: Operating,
    services: Given,
    cursor: Annotated[TenantId | Absent, Query(description="`next` of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> Response:
    """All tenants, by name."""
    found = await services.tenants.page(after=cursor or "", limit=limit + 1)
    shown = [TenantObject.of(record) for record in found[:limit]]
    return _json(TenantPage(data=shown, next=shown[-1].id if len(found) > limit else None))


@router.get("/{tenant_id}", response_model=TenantTermsObject, responses=refusals(404))
async def get_tenant(tenant_id: str, asking: Administering, services: Given) -> Response:
    """One tenant, and what holds for it: any for an operator, its own for who administers it."""
    return _holding(services, await services.tenants.get(_seen(asking, tenant_id)))


@router.patch("/{tenant_id}", response_model=TenantTermsObject, responses=refusals(404, 409, 413, 415))
async def change_tenant(
    tenant_id: str, body: TenantChange, asking: Operating, services: Given, request: Request
) -> Response:
    """Suspend a tenant, resume it, or have it on other terms: in effect within a second in every process."""
    tenant, tenants, by = _seen(asking, tenant_id), services.tenants, acting(asking, request)
    if body.allowed:
        changed = await tenants.allow(tenant, body.allowed, by=by)
    if body.status is Standing.SUSPENDED:
        changed = await tenants.suspend(tenant, cancel_running=body.cancel_running, by=by)
    elif body.status is Standing.ACTIVE:
        changed = await tenants.resume(tenant, by=by)
    return _holding(services, changed)


@router.delete("/{tenant_id}", status_code=202, response_model=TenantObject, responses=refusals(404, 409, 413, 415))
async def remove_tenant(tenant_id: str, asking: Operating, services: Given, request: Request) -> Response:
    """Remove a suspended tenant and all that is kept of it, which goes on after the answer: until it is not found."""
    removing = await services.tenants.remove(_seen(asking, tenant_id), by=acting(asking, request))
    return _json(TenantObject.of(removing), 202)


def _seen(asking: Principal, tenant: str) -> str:
    """Raises NotFound where it is not the one that who asks is of, or names."""
    if asking.tenant != tenant and not (asking.kind is Kind.OPERATOR and asking.tenant is None):
        raise NotFound("There is no such tenant.")
    return tenant


def _holding(services: Services, record: TenantRecord) -> Response:
    limits, terms = services.limits.holding(record.id), services.terms().of(record.id)
    return _json(TenantTermsObject.holding(record, limits, terms))


def _json(answer: BaseModel, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(answer.model_dump_json(), status, headers, media_type="application/json")
