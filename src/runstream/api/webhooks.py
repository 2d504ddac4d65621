"""The routes of webhooks, for who manages a tenant."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel
from pydantic.json_schema import SkipJsonSchema

from runstream.api.asking import Administering
from runstream.api.auditing import acting
from runstream.api.documents import EVERYWHERE, refusals
from runstream.api.schemas.fields import DeliveryCursor
from runstream.api.schemas.webhooks import (
    DeliveryObject,
    DeliveryPage,
    NewSecret,
    Rotation,
    WebhookChange,
    WebhookList,
    WebhookObject,
    WebhookRequest,
)
from runstream.api.services import Given
from runstream.domain.webhook import DeliveryStatus

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"], responses=refusals(*EVERYWHERE))


@router.post("", status_code=201, response_model=NewSecret, responses=refusals(409, 413, 415))
async def create_webhook(body: WebhookRequest, asking: Administering, services: Given, request: Request) -> Response:
    """Have an address told of what becomes of the tenant's runs. The secret is shown this once."""
    webhook = await services.endpoints.add(
        asking.owner.tenant,
        url=body.url,
        events=body.events,
        description=body.description,
        include_output=body.include_output,
        by=acting(asking, request),
    )
    return _json(NewSecret.of(webhook), 201, {"Location": f"/v1/webhooks/{webhook.id}"})


@router.get("", response_model=WebhookList)
async def list_webhooks(asking: Administering, services: Given) -> Response:
    """The tenant's webhooks."""
    webhooks = await services.endpoints.list(asking.owner.tenant)
    return _json(WebhookList(data=[WebhookObject.of(webhook) for webhook in webhooks]))


@router.get("/{webhook_id}", response_model=WebhookObject, responses=refusals(404))
async def get_webhook(webhook_id: str, asking: Administering, services: Given) -> Response:
    """One webhook, and whether it is failing, or switched off and why."""
    return _json(WebhookObject.of(await services.endpoints.get(asking.owner.tenant, webhook_id)))


@router.patch("/{webhook_id}", response_model=WebhookObject, responses=refusals(404, 413, 415))
async def change_webhook(
    webhook_id: str, body: WebhookChange, asking: Administering, services: Given, request: Request
) -> Response:
    """Change it. What waits for one that is switched off ends; switched on, it is told of what happens from then on."""
    changes = body.model_dump(exclude_none=True)
    enabled = changes.pop("enabled", None)
    webhook = await services.endpoints.change(
        asking.owner.tenant, webhook_id, changes, enabled, by=acting(asking, request)
    )
    return _json(WebhookObject.of(webhook))


@router.delete("/{webhook_id}", status_code=204, responses=refusals(404, 413, 415))
async def delete_webhook(webhook_id: str, asking: Administering, services: Given, request: Request) -> Response:
    """Delete it, and what is known of its deliveries."""
    await services.endpoints.remove(asking.owner.tenant, webhook_id, by=acting(asking, request))
    return Response(status_code=204)


@router.post("/{webhook_id}/rotate", response_model=NewSecret, responses=refusals(404, 409, 413, 415))
async def rotate_secret(
    webhook_id: str, asking: Administering, services: Given, request: Request, body: Rotation | None = None
) -> Response:
    """A new secret, which is shown this once. For `overlap` seconds each delivery is signed with the old one too."""
    overlap = (body or Rotation()).overlap
    webhook = await services.endpoints.rotate(asking.owner.tenant, webhook_id, overlap, by=acting(asking, request))
    return _json(NewSecret.of(webhook))


@router.post(
    "/{webhook_id}/test", status_code=202, response_model=DeliveryObject, responses=refusals(404, 409, 413, 415)
)
async def test_webhook(webhook_id: str, asking: Administering, services: Given, request: Request) -> Response:
    """Have it sent a `webhook.test`, as any other event is."""
    delivery = await services.endpoints.test(asking.owner.tenant, webhook_id, by=acting(asking, request))
    return _json(DeliveryObject.of(delivery), 202)


@router.get("/{webhook_id}/deliveries", response_model=DeliveryPage, responses=refusals(404))
async def list_deliveries(
    webhook_id: str,
    asking: Administering,
    services: Given,
    status: DeliveryStatus | None = None,
    cursor: Annotated[DeliveryCursor | SkipJsonSchema[None], Query(description="`next` of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> Response:
    """What it was sent and is to be sent, and what became of each attempt, the newest first."""
    found = await services.endpoints.deliveries(
        asking.owner.tenant, webhook_id, status=status, before=cursor, limit=limit + 1
    )
    shown = [DeliveryObject.of(delivery) for delivery in found[:limit]]
    return _json(DeliveryPage(data=shown, next=shown[-1].id if len(found) > limit else None))


@router.post(
    "/{webhook_id}/deliveries/{delivery_id}/redeliver",
    status_code=202,
    response_model=DeliveryObject,
    responses=refusals(404, 409, 413, 415),
)
async def redeliver(
    webhook_id: str, delivery_id: str, asking: Administering, services: Given, request: Request
) -> Response:
    """Have it delivered again, whatever became of it, at once and as often as a new one. Its id stays the same."""
    delivery = await services.endpoints.redeliver(
        asking.owner.tenant, webhook_id, delivery_id, by=acting(asking, request)
    )
    return _json(DeliveryObject.of(delivery), 202)


def _json(answer: BaseModel, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(
        answer.model_dump_json(),
        status,
        {"Cache-Control": "no-store", **(headers or {})},
        media_type="application/json",
    )
