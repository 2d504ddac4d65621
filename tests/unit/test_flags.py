"""For whom a flag is on."""

from __future__ import annotations

from itertools import pairwise

import pytest

from runstream.domain.errors import SwitchedOff
from runstream.domain.flags import Flag, Guarded, Reason
from runstream.domain.limits import Party
from runstream.domain.terms import Terms

USERS = [f"user-{number}" for number in range(2000)]


def on_for(share: float, *, name: str = "new", tenant: str = "acme") -> set[str]:
    flag = Flag(name, Guarded.MODEL, "*", share=share)
    return {user for user in USERS if flag.decide(tenant, user).on}


def test_a_greater_share_keeps_all_that_had_it() -> None:
    shares = [on_for(share) for share in (0, 0.1, 0.3, 0.9, 1)]
    assert all(less <= more for less, more in pairwise(shares))
    assert shares[0] == set()
    assert shares[-1] == set(USERS)
    assert 0.25 < len(shares[2]) / len(USERS) < 0.35


def test_which_users_a_share_has_is_another_matter_for_each_flag_and_each_tenant() -> None:
    expected = len(USERS) * 0.25
    for others in (on_for(0.5, name="other"), on_for(0.5, tenant="globex")):
        assert 0.8 * expected < len(on_for(0.5) & others) < 1.2 * expected


def test_a_decision_says_what_it_is_made_by() -> None:
    flag = Flag.of("new", {"of": {"model": "gpt-*"}, "share": 0, "tenants": {"acme": 1}})
    named, other = flag.decide("acme", "ada"), flag.decide("globex", "ada")
    assert (named.on, named.reason, named.share) == (True, Reason.TENANT, 1)
    assert (other.on, other.reason, other.share) == (False, Reason.EVERYBODY, 0)
    off = Flag.of("new", {"of": {"model": "gpt-*"}, "on": False}).decide("acme", "ada")
    assert (off.on, off.reason) == (False, Reason.OFF)


@pytest.mark.parametrize(
    ("of", "guards"),
    [
        ({"feature": "chat"}, True),
        ({"feature": "ch*"}, True),
        ({"feature": "fast"}, False),
        ({"model": "fast"}, True),
        ({"model": "chat"}, False),
        ({"prompt": "chat/2"}, True),
        ({"prompt": "chat/1"}, False),
    ],
)
def test_a_flag_is_of_a_feature_a_model_or_the_version_of_a_prompt(of: dict[str, str], guards: bool) -> None:
    terms = Terms(flags=(Flag.of("x", {"of": of, "on": False}),))
    if not guards:
        terms.admit(Party("acme", "ada", "chat"), "2", "fast")
        terms.begin("chat", "2", "fast")
        return
    (kind,) = of
    with pytest.raises(SwitchedOff, match="for all") as refused:
        terms.admit(Party("acme", "ada", "chat"), "2", "fast")
    assert refused.value.param == kind
    with pytest.raises(SwitchedOff, match="for all"):
        terms.begin("chat", "2", "fast")


def test_of_several_flags_each_is_to_be_on_and_what_waits_is_begun_unless_one_is_off_for_all() -> None:
    flags = tuple(Flag.of(name, {"of": {"model": "fast"}, "share": share}) for name, share in (("a", 1), ("b", 0)))
    with pytest.raises(SwitchedOff, match=r"for you \(flag 'b'\)"):
        Terms(flags=flags).admit(Party("acme", "ada", "chat"), "1", "fast")
    Terms(flags=flags).begin("chat", "1", "fast")
