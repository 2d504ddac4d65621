"""Which routes are in the audit log, and why the others are not."""

from __future__ import annotations

from runstream.domain.audit import Action

BY_ANYBODY = {
    "DELETE /v1/users/{user}": [Action.USER_ERASED],
    "GET /v1/export": [Action.TENANT_EXPORTED],
    "POST /v1/keys": [Action.KEY_CREATED],
    "POST /v1/keys/{key_id}/rotate": [Action.KEY_ROTATED],
    "DELETE /v1/keys/{key_id}": [Action.KEY_REVOKED],
    "POST /v1/webhooks": [Action.WEBHOOK_CREATED],
    "PATCH /v1/webhooks/{webhook_id}": [Action.WEBHOOK_CHANGED],
    "DELETE /v1/webhooks/{webhook_id}": [Action.WEBHOOK_DELETED],
    "POST /v1/webhooks/{webhook_id}/rotate": [Action.WEBHOOK_SECRET_ROTATED],
    "POST /v1/webhooks/{webhook_id}/test": [Action.WEBHOOK_TESTED],
    "POST /v1/webhooks/{webhook_id}/deliveries/{delivery_id}/redeliver": [Action.DELIVERY_REDELIVERED],
}
"""Changes of whom and what is trusted."""

BY_ANOTHER = {
    "DELETE /v1/runs/{run_id}": [Action.RUN_DELETED],
    "POST /v1/runs/{run_id}/cancel": [Action.RUN_CANCELLED],
    "POST /v1/runs/{run_id}/retry": [Action.RUN_RETRIED],
}
"""Changes of a run by who does not act as its user."""

BY_OPERATORS = {
    "POST /v1/runs": [Action.RUN_SUBMITTED],
    "GET /v1/runs": [Action.RUN_LISTED],
    "GET /v1/runs/{run_id}": [Action.RUN_READ],
    "GET /v1/runs/{run_id}/events": [Action.RUN_EVENTS_READ],
    "GET /v1/runs/{run_id}/attempts": [Action.RUN_ATTEMPTS_READ],
    "POST /v1/runs/{run_id}/token": [Action.RUN_TOKEN_CREATED],
    "GET /v1/runs/{run_id}/feedback": [Action.RUN_FEEDBACK_READ],
    "POST /v1/runs/{run_id}/feedback": [Action.RUN_FEEDBACK_GIVEN],
    "POST /v1/runs/{run_id}/cancel": [Action.RUN_READ],
}
"""What those who run the service do in the place of a tenant, and what of it they are shown."""

OF_ALL = {
    "PUT /v1/plans/{name}": [Action.PLAN_SET],
    "DELETE /v1/plans/{name}": [Action.PLAN_REMOVED],
    "PUT /v1/flags/{name}": [Action.FLAG_SET],
    "DELETE /v1/flags/{name}": [Action.FLAG_REMOVED],
}
"""Changes by operators of what is of no tenant, whichever one they name."""

OF_TENANTS = {
    "POST /v1/tenants": [Action.TENANT_CREATED],
    "PATCH /v1/tenants/{tenant_id}": [Action.TENANT_CHANGED, Action.TENANT_SUSPENDED, Action.TENANT_RESUMED],
    "DELETE /v1/tenants/{tenant_id}": [Action.TENANT_REMOVAL_REQUESTED],
}
"""Changes of a tenant. The rows' requests change nothing: the one of all tests must stay as it is."""

NOT_AUDITED = {
    "GET /v1/erasures/{erasure_id}": "who is erased is not shown",
    "GET /healthz": "says nothing of a tenant",
    "GET /readyz": "says nothing of a tenant",
    "GET /metrics": "says nothing of a tenant",
    "GET /v1/usage": "figures alone",
    "GET /v1/limits": "figures alone",
    "GET /v1/feedback": "figures alone",
    "GET /v1/keys": "keys themselves are not shown",
    "GET /v1/webhooks": "secrets are not shown",
    "GET /v1/webhooks/{webhook_id}": "secrets are not shown",
    "GET /v1/webhooks/{webhook_id}/deliveries": "what was delivered is not shown",
    "GET /v1/tenants": "no content is shown",
    "GET /v1/tenants/{tenant_id}": "no content is shown",
    "GET /v1/plans": "no content is shown",
    "GET /v1/plans/{name}": "no content is shown",
    "GET /v1/flags": "no content is shown",
    "GET /v1/flags/{name}": "no content is shown",
    "GET /v1/audit": "it is what others may see of them, and changes nothing",
}
