"""Deliveries are signed so that Standard Webhooks' own library takes them, and nothing else."""

import time

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from runstream.webhooks.signing import headers, new_secret

BODY = '{"type":"run.completed","data":{"text":"é"}}'.encode()


def test_each_of_several_secrets_verifies_and_no_other() -> None:
    old, new = new_secret(), new_secret()
    signed = headers("evt_1", int(time.time()), BODY, [new, old])
    for secret in (old, new):
        assert Webhook(secret).verify(BODY, signed)["data"] == {"text": "é"}
    with pytest.raises(WebhookVerificationError):
        Webhook(new_secret()).verify(BODY, signed)


@pytest.mark.parametrize("changed", [{"webhook-id": "evt_2"}, {"webhook-timestamp": str(int(time.time()) + 1)}])
def test_what_was_changed_on_the_way_does_not_verify(changed: dict[str, str]) -> None:
    secret = new_secret()
    signed = headers("evt_1", int(time.time()), BODY, [secret])
    for body, given in ((BODY, {**signed, **changed}), (BODY + b" ", signed)):
        with pytest.raises(WebhookVerificationError):
            Webhook(secret).verify(body, given)


def test_what_somebody_else_sends_again_later_does_not_verify() -> None:
    secret = new_secret()
    with pytest.raises(WebhookVerificationError, match="too old"):
        Webhook(secret).verify(BODY, headers("evt_1", int(time.time()) - 301, BODY, [secret]))
