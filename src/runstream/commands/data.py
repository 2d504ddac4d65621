"""What the commands on a tenant's data do, straight at the database."""

from collections.abc import AsyncIterator

from runstream.api.exporting import Export, sections
from runstream.connections import master_keys
from runstream.domain.errors import NotFound
from runstream.domain.principal import tenant_name, user_name
from runstream.settings import load
from runstream.storage.audit import AuditStore
from runstream.storage.command import opened
from runstream.storage.content import content_with
from runstream.storage.erasures import ErasureStore
from runstream.storage.exporting import ExportStore
from runstream.storage.feedback import FeedbackStore
from runstream.storage.keys import KeyStore
from runstream.storage.webhooks import WebhookStore


async def exported(tenant: str, user: str | None) -> AsyncIterator[bytes]:
    """The lines of an export. Raises NotFound where there is no such tenant."""
    settings = load()
    async with opened(settings.sweep_login, settings.database_timeout) as engine:
        keys = KeyStore(engine)
        await _check(keys, tenant)
        content = content_with(engine, master_keys(settings))
        store = ExportStore(engine, content)
        feedback, webhooks = FeedbackStore(engine, content), WebhookStore(engine, content)
        kinds = sections(store, feedback, webhooks, keys, AuditStore(engine, engine))
        async for line in await Export(store, kinds).begin(tenant, user):
            yield line


async def erase_user(tenant: str, user: str) -> str:
    """Have a user erased; the erasure's id. Raises NotFound where there is no such tenant, and InvalidField."""
    settings = load()
    async with opened(settings.sweep_login, settings.database_timeout) as engine:
        await _check(KeyStore(engine), tenant)
        return (await ErasureStore(engine).ask(tenant, user_name(user))).id


async def _check(keys: KeyStore, tenant: str) -> None:
    if not await keys.has_tenant(tenant_name(tenant)):
        raise NotFound("There is no such tenant.")
