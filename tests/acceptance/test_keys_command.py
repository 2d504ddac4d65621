"""`runstream keys`, and what the other commands say of a database that cannot be used."""

from __future__ import annotations

from uuid import uuid4

import httpx
import pytest

from caller import Caller
from runstream.domain.principal import Kind, Scope
from runstream.embedded.port import free_port
from stack import Command, Stack
from waiting import until

DEADLINE = 60
SECRET = "s3cret-51aa"


@pytest.fixture
def tenant() -> str:
    return f"tenant-{uuid4().hex}"


def status_with(stack: Stack, key: str, tenant: str | None = None) -> int:
    """What the API answers to a request with this key, about this tenant."""
    headers = {"Authorization": f"Bearer {key}"} | ({"Runstream-Tenant": tenant} if tenant else {})
    return httpx.get(f"{stack.url}/v1/runs", headers=headers, timeout=DEADLINE).status_code


def test_the_key_is_the_last_word_that_create_prints_and_opens_the_api(
    stack: Stack, command: Command, tenant: str
) -> None:
    created = command("keys", "create", "--tenant", tenant, "--user", "Ada Lovelace")
    assert created.returncode == 0, created.stderr
    key = created.stdout.split()[-1]
    assert key.startswith("rs_")
    assert status_with(stack, key) == 200


def test_each_key_is_another(command: Command, tenant: str) -> None:
    keys = {command("keys", "create", "--tenant", tenant, "--user", "ada").stdout.split()[-1] for _ in range(2)}
    assert len(keys) == 2


def test_what_is_done_to_keys_is_in_the_audit_log(stack: Stack, command: Command, tenant: str) -> None:
    command("keys", "create", "--tenant", tenant, "--kind", "server", "--scope", "admin")
    admin = stack.create_key(tenant, None, Kind.SERVER, [Scope.ADMIN])
    key_id = command("keys", "list", "--tenant", tenant).stdout.splitlines()[0].split()[0]
    command("keys", "rotate", key_id)
    command("keys", "revoke", key_id)
    log = httpx.get(f"{stack.url}/v1/audit", headers={"Authorization": f"Bearer {admin}"}, timeout=DEADLINE)
    entries = log.raise_for_status().json()["data"]
    done = [(each["action"], each["target"]["id"]) for each in entries if each["target"]["id"] == key_id]
    assert done == [("key.revoked", key_id), ("key.rotated", key_id), ("key.created", key_id)]
    assert {each["principal"]["kind"] for each in entries} == {"command"}
    printed = command("audit", "--tenant", tenant, "--target", key_id, "--since", "1h").stdout.splitlines()
    assert [[word for word in line.split() if word.startswith("key.")] for line in printed] == [
        ["key.revoked"],
        ["key.rotated"],
        ["key.created"],
    ]
    assert command("audit", "--tenant", tenant, "--action", "key.revoked").stdout.splitlines() == printed[:1]


async def test_a_secret_that_is_rotated_without_an_overlap_ends_all_run_tokens(stack: Stack, command: Command) -> None:
    async with Caller(stack.url, stack.key, "acme", "ada") as caller:
        run_id = await caller.create("sim:1")
        minted = (await caller.http.post(f"/v1/runs/{run_id}/token", json={})).json()["token"]

        async def status() -> int:
            headers = {"Authorization": f"Bearer {minted}"}
            return (await caller.http.get(f"/v1/runs/{run_id}", headers=headers)).status_code

        async def is_refused() -> bool:
            return await status() == 401

        assert await status() == 200
        rotated = command("tokens", "rotate", "--overlap", "0s")
        assert rotated.returncode == 0, rotated.stderr
        await until(is_refused)
    assert "token_secret.rotated" in command("audit", "--action", "token_secret.rotated").stdout


def test_list_shows_a_tenants_keys_without_the_keys(command: Command, tenant: str) -> None:
    key = command("keys", "create", "--tenant", tenant, "--user", "ada").stdout.split()[-1]
    command("keys", "create", "--tenant", f"{tenant}-other", "--user", "bob")
    listed = command("keys", "list", "--tenant", tenant)
    assert listed.returncode == 0
    (line,) = listed.stdout.splitlines()
    assert line.split()[1:4] == [f"{key[:8]}...", tenant, "ada"]
    assert key not in listed.stdout


def test_list_without_a_tenant_shows_everybodys(command: Command, tenant: str) -> None:
    for name in (tenant, f"{tenant}-other"):
        command("keys", "create", "--tenant", name, "--user", "ada")
    shown = {line.split()[2] for line in command("keys", "list").stdout.splitlines()}
    assert {tenant, f"{tenant}-other"} <= shown


def test_a_revoked_key_opens_nothing_and_is_still_listed_as_revoked(
    stack: Stack, command: Command, tenant: str
) -> None:
    key = command("keys", "create", "--tenant", tenant, "--user", "ada").stdout.split()[-1]
    key_id = command("keys", "list", "--tenant", tenant).stdout.split()[0]
    revoked = command("keys", "revoke", key_id)
    assert revoked.returncode == 0
    assert revoked.stdout == f"Revoked {key_id}.\n"
    assert status_with(stack, key) == 401
    assert "revoked" in command("keys", "list", "--tenant", tenant).stdout


def test_revoking_twice_or_what_is_not_there_fails_in_a_sentence(command: Command, tenant: str) -> None:
    command("keys", "create", "--tenant", tenant, "--user", "ada")
    key_id = command("keys", "list", "--tenant", tenant).stdout.split()[0]
    command("keys", "revoke", key_id)
    for unknown in (key_id, "key_nothing"):
        refused = command("keys", "revoke", unknown)
        assert refused.returncode == 1
        assert refused.stderr == "runstream: There is no such key, or it is revoked already.\n"


def test_each_kind_of_key_names_whose_it_is(stack: Stack, command: Command, tenant: str) -> None:
    made = {
        "server": ("--kind", "server", "--tenant", tenant, "--scope", "runs:read", "--expires", "90d"),
        "operator": ("--kind", "operator"),
    }
    for kind, arguments in made.items():
        created = command("keys", "create", *arguments)
        assert created.returncode == 0, created.stderr
        key = created.stdout.split()[-1]
        assert status_with(stack, key, tenant) == 200
        (line,) = [line for line in command("keys", "list").stdout.splitlines() if key[:8] in line]
        assert kind in line.split()
        assert ("expires" in line) == (kind == "server")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--tenant", "acme"), "A user's key names its user."),
        (("--user", "ada"), "A user's key names its tenant."),
        (("--kind", "server"), "A server's key names its tenant."),
        (("--kind", "operator", "--tenant", "acme"), "An operator's key is of no tenant and no user."),
        (("--tenant", "acme", "--user", "ada", "--scope", "admin"), "A user's key cannot have the scope 'admin'."),
        (
            ("--tenant", "acme", "--user", "ada", "--expires", "soon"),
            "A time is a number and s, m, h or d, such as 90m.",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_key_that_is_nobodys_or_may_too_much_is_refused(
    command: Command, arguments: tuple[str, ...], said: str
) -> None:
    refused = command("keys", "create", *arguments)
    assert refused.returncode == 1
    assert refused.stderr == f"runstream: {said}\n"


def test_a_rotated_key_goes_on_beside_the_one_that_replaces_it(stack: Stack, command: Command, tenant: str) -> None:
    old = command("keys", "create", "--tenant", tenant, "--user", "ada").stdout.split()[-1]
    key_id = command("keys", "list", "--tenant", tenant).stdout.split()[0]
    rotated = command("keys", "rotate", key_id, "--overlap", "1h")
    assert rotated.returncode == 0, rotated.stderr
    new = rotated.stdout.split()[-1]
    assert status_with(stack, old) == status_with(stack, new) == 200
    shown, _ = command("keys", "list", "--tenant", tenant).stdout.splitlines()
    assert "expires" in shown
    assert "replaced by key_" in shown
    assert command("keys", "rotate", key_id).returncode == 1


@pytest.mark.parametrize("tenant", ["", "a b", "-a", "ä", "x" * 65])
def test_a_tenant_must_have_a_plain_name(command: Command, tenant: str) -> None:
    refused = command("keys", "create", f"--tenant={tenant}", "--user", "ada")
    assert refused.returncode == 1
    assert refused.stderr == "runstream: A tenant's name is 1 to 64 letters, digits, '_', '.' or '-'.\n"


@pytest.mark.parametrize("user", ["", "a\nb", "x" * 129])
def test_a_user_must_have_a_printable_name(command: Command, tenant: str, user: str) -> None:
    refused = command("keys", "create", "--tenant", tenant, "--user", user)
    assert refused.returncode == 1
    assert refused.stderr == "runstream: A user's name is 1 to 128 printable characters.\n"


def test_before_the_migrations_it_says_to_run_them(command: Command, empty_database_url: str) -> None:
    refused = command("keys", "create", "--tenant", "acme", "--user", "ada", database_url=empty_database_url)
    assert refused.returncode == 1
    assert refused.stderr == "runstream: The database's tables are not up to date: run 'runstream migrate'.\n"
    assert command("migrate", database_url=empty_database_url).returncode == 0
    created = command("keys", "create", "--tenant", "acme", "--user", "ada", database_url=empty_database_url)
    assert created.returncode == 0


@pytest.mark.parametrize("arguments", [("keys", "list"), ("migrate",)], ids=" ".join)
def test_a_database_that_is_down_is_one_sentence_without_its_password(
    command: Command, arguments: tuple[str, ...]
) -> None:
    refused = command(*arguments, database_url=f"postgresql://ada:{SECRET}@127.0.0.1:{free_port()}/runstream")
    assert refused.returncode == 1
    assert refused.stderr.startswith("runstream: The database cannot be used (")
    assert refused.stderr.endswith("): check RUNSTREAM_DATABASE_URL.\n")
    assert SECRET not in refused.stderr


@pytest.mark.parametrize("name", ["api", "worker", "migrate"])
def test_a_database_url_that_is_none_is_one_sentence_without_its_text(command: Command, name: str) -> None:
    refused = command(name, database_url=f"postgresql://ada@host:{SECRET}/runstream")
    assert refused.returncode == 1
    assert refused.stderr.startswith("runstream: RUNSTREAM_DATABASE_URL is not a URL such as")
    assert SECRET not in refused.stderr


@pytest.mark.parametrize("name", ["api", "worker"])
def test_a_redis_url_that_is_none_is_one_sentence_without_its_text(command: Command, name: str) -> None:
    refused = command(name, redis_url=f"redis://:{SECRET}/0@host:{SECRET}")
    assert refused.returncode == 1
    assert refused.stderr == "runstream: RUNSTREAM_REDIS_URL is not a URL such as redis://host:6379/0.\n"
