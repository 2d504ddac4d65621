"""What each kind of principal may do, before any route is asked."""

import pytest

from runstream.domain.errors import (
    Forbidden,
    InvalidField,
    MissingScope,
    NotFound,
    RunstreamError,
    TenantRequired,
    UserRequired,
)
from runstream.domain.principal import Kind, OneRun, Owner, Principal, RunAct, Scope

ALL = frozenset(Scope)
USER = Principal("key_1", Kind.USER, "acme", "ada", ALL - {Scope.ADMIN})
SERVER = Principal("key_2", Kind.SERVER, "acme", "batch", ALL)
NAMELESS = Principal("key_3", Kind.SERVER, "acme", None, ALL)
OPERATOR = Principal("key_4", Kind.OPERATOR, None, None, ALL)
READER = Principal("tok_1", Kind.USER, "acme", "ada", frozenset(), only=OneRun("run_1", frozenset({RunAct.READ})))


@pytest.mark.parametrize(
    ("principal", "sees", "makes"),
    [
        (USER, Owner("acme", "ada"), ("acme", "ada")),
        (SERVER, Owner("acme", None), ("acme", "batch")),
        (SERVER.naming(None, "ada"), Owner("acme", "ada"), ("acme", "ada")),
        (SERVER.naming("acme", None), Owner("acme", None), ("acme", "batch")),
        (NAMELESS, Owner("acme", None), UserRequired),
        (OPERATOR, TenantRequired, TenantRequired),
        (OPERATOR.naming("globex", None), Owner("globex", None), UserRequired),
        (OPERATOR.naming("globex", "ada"), Owner("globex", "ada"), ("globex", "ada")),
        (READER, Owner("acme", "ada"), ("acme", "ada")),
    ],
)
def test_whose_runs_it_sees_and_makes(principal, sees, makes):
    assert told(lambda: principal.owner) == sees
    assert told(lambda: principal.maker) == makes


def told(ask):
    """What is answered, or the kind of error that is raised."""
    try:
        return ask()
    except RunstreamError as error:
        return type(error)


@pytest.mark.parametrize(
    ("principal", "tenant", "user"),
    [
        (USER, "globex", None),
        (USER, None, "bob"),
        (SERVER, "globex", None),
        (SERVER, "globex", "ada"),
        (READER, None, "bob"),
    ],
)
def test_who_may_not_name_another_is_refused_whether_or_not_it_is_there(principal, tenant, user):
    with pytest.raises(Forbidden):
        principal.naming(tenant, user)


def test_naming_oneself_changes_nothing():
    assert USER.naming("acme", "ada") == USER


@pytest.mark.parametrize(("tenant", "user"), [("a b", None), ("", None), ("globex", ""), ("globex", "a\nb")])
def test_what_is_named_has_to_be_a_name(tenant, user):
    with pytest.raises(InvalidField):
        OPERATOR.naming(tenant, user)


def test_who_acts_for_a_user_administers_nothing():
    SERVER.check(Scope.ADMIN)
    with pytest.raises(MissingScope, match="admin"):
        SERVER.naming(None, "ada").check(Scope.ADMIN)


@pytest.mark.parametrize("scope", Scope)
def test_a_scope_that_is_missing_is_named(scope):
    SERVER.check(scope)
    with pytest.raises(MissingScope) as refused:
        Principal("key_1", Kind.SERVER, "acme", None, ALL - {scope}).check(scope)
    assert refused.value.param == scope


@pytest.mark.parametrize(
    ("act", "run_id", "refusal"),
    [
        (RunAct.READ, "run_1", None),
        (RunAct.READ, "run_2", NotFound),
        (RunAct.CANCEL, "run_1", Forbidden),
        (None, "run_1", Forbidden),
        (None, None, Forbidden),
    ],
)
def test_who_is_restricted_to_a_run_may_do_to_it_what_was_allowed_and_nothing_else(act, run_id, refusal):
    for scope in Scope:
        assert told(lambda scope=scope: READER.check(scope, act, run_id)) is refusal
