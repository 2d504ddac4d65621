"""`runstream doctor`: a line for each part, what to do where one is wrong, and no secret in any of them."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import asyncpg
import pytest
import redis
from tests import forked

from identity_provider import Key, providing
from runstream.embedded import Valkey
from runstream.embedded.port import free_port
from runstream.storage.tables import metadata
from runstream.storage.tenancy import tenant_column
from stack import PROVIDER_KEY, Stack, outside_the_loop

DEADLINE = 60
SECRET = "s3cret-9f27"


class Report(NamedTuple):
    code: int
    text: str

    def lines(self, mark: str, part: str = "") -> list[str]:
        """What is said of a part under a mark."""
        matches = (re.match(rf"{mark} +({part}.*)", line) for line in self.text.splitlines())
        return [match[1] for match in matches if match]


Examine = Callable[..., Report]


@pytest.fixture
def examine(stack: Stack, tmp_path: Path) -> Examine:
    """Runs the doctor with a stack's configuration, but for what is given; None takes a variable away."""

    def run(**changed: str | None) -> Report:
        given = {f"RUNSTREAM_{name.upper()}": value for name, value in changed.items()}
        environment = {name: value for name, value in {**stack.environment, **given}.items() if value is not None}
        done = forked.run("doctor", directory=tmp_path, environment=environment, seconds=DEADLINE)
        assert done.stderr == ""
        for secret in secrets_of(environment):
            assert secret not in done.stdout
        return Report(done.returncode, done.stdout)

    return run


@pytest.fixture
def own_valkey(server_directory: Path) -> Iterator[redis.Redis]:
    """A client of a Valkey that may be configured; its URL is in its `url`."""
    with Valkey(server_directory / "valkey", durable=False) as server, redis.Redis.from_url(server.url) as client:
        client.url = server.url
        yield client


def test_all_is_well_where_everything_is_right(examine: Examine) -> None:
    report = examine()
    assert report.code == 0
    assert [line.split()[0] for line in report.lines("ok")] == [
        "configuration",
        "database",
        "migrations",
        "tenants",
        "encryption",
        "redis",
        "provider",
    ]
    assert not report.lines("advice")
    assert report.text.endswith("All is well.\n")


def test_it_says_which_versions_it_found(examine: Examine) -> None:
    report = examine()
    assert re.search(r"PostgreSQL \d+\.\d+ answers", report.text)
    assert re.search(r"Valkey \d+\.\d+\.\d+ answers", report.text)


def test_it_buys_no_token(make_stack: Callable[..., Stack], examine: Examine) -> None:
    stack = make_stack(apis=0, workers=0)
    examine(providers=stack.environment["RUNSTREAM_PROVIDERS"])
    assert stack.provider_stats()["calls"] == {}
    assert stack.provider_stats()["connections"] > 0


def test_a_database_that_is_down_is_a_problem_and_the_rest_is_still_checked(examine: Examine) -> None:
    report = examine(database_url=f"postgresql://ada:{SECRET}@127.0.0.1:{free_port()}/runstream")
    assert report.code == 1
    assert "check RUNSTREAM_DATABASE_URL" in report.lines("problem", "database")[0]
    assert report.lines("problem", "migrations")
    assert report.lines("ok", "redis")
    assert report.lines("ok", "provider")


def test_a_password_that_postgres_refuses_is_told_from_a_database_that_is_down(examine: Examine, stack: Stack) -> None:
    place = urlsplit(stack.database_url)
    wrong = place._replace(netloc=f"{place.username}:{SECRET}@{place.hostname}:{place.port}")
    report = examine(database_url=wrong.geturl())
    assert "password authentication failed" in report.lines("problem", "database")[0]


def test_a_database_url_that_is_none_is_told_without_its_text(examine: Examine) -> None:
    report = examine(database_url=f"postgresql://ada:{SECRET}@host:{SECRET}/runstream")
    assert "is not a URL" in report.lines("problem", "database")[0]


def test_missing_migrations_are_told_with_the_command_that_mends_it(examine: Examine, empty_database_url: str) -> None:
    report = examine(database_url=empty_database_url)
    assert report.code == 1
    assert report.lines("ok", "database")
    assert "run 'runstream migrate'" in report.lines("problem", "migrations")[0]


def test_a_database_that_takes_no_writes_is_a_problem(examine: Examine, database_url: str) -> None:
    name = urlsplit(database_url).path.removeprefix("/")
    execute(database_url, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    report = examine(database_url=database_url)
    assert "takes no writes" in report.lines("problem", "database")[0]


def test_a_role_that_may_not_write_the_tables_is_a_problem(examine: Examine, database_url: str) -> None:
    execute(database_url, f"CREATE ROLE reader LOGIN PASSWORD '{SECRET}'")
    try:
        execute(database_url, "GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader")
        place = urlsplit(database_url)
        reader = place._replace(netloc=f"reader:{SECRET}@{place.hostname}:{place.port}")
        report = examine(database_url=reader.geturl())
    finally:
        execute(database_url, "DROP OWNED BY reader; DROP ROLE reader")
    (problem, *_) = report.lines("problem", "database")
    tables = sorted(table.name for table in metadata.sorted_tables if tenant_column(table))
    assert len(tables) > 10
    assert f"may not write {', '.join(tables)}:" in problem


def test_a_redis_that_is_down_is_a_problem(examine: Examine) -> None:
    report = examine(redis_url=f"redis://:{SECRET}@127.0.0.1:{free_port()}/0")
    assert report.code == 1
    assert "check RUNSTREAM_REDIS_URL" in report.lines("problem", "redis")[0]
    assert report.lines("ok", "database")
    assert report.lines("ok", "provider")


def test_a_password_that_redis_refuses_is_told_from_a_redis_that_is_down(examine: Examine, stack: Stack) -> None:
    place = urlsplit(stack.redis_url)
    report = examine(redis_url=place._replace(netloc=f":{SECRET}@{place.hostname}:{place.port}").geturl())
    assert "does not accept the password" in report.lines("problem", "redis")[0]


def test_a_redis_that_may_evict_runs_is_advised_upon(examine: Examine, own_valkey: redis.Redis) -> None:
    own_valkey.config_set("maxmemory-policy", "allkeys-lru")
    report = examine(redis_url=own_valkey.url)
    assert report.code == 0
    assert "set it to noeviction" in report.lines("advice", "redis")[0]


def test_it_says_what_redis_keeps_on_disk(examine: Examine, own_valkey: redis.Redis) -> None:
    own_valkey.config_set("appendonly", "yes")
    assert "Persistence: append-only file." in examine(redis_url=own_valkey.url).lines("ok", "redis")[0]
    own_valkey.config_set("appendonly", "no")
    assert "Persistence: no append-only file." in examine(redis_url=own_valkey.url).lines("ok", "redis")[0]


def test_a_redis_user_that_may_run_no_scripts_is_a_problem(examine: Examine, own_valkey: redis.Redis) -> None:
    own_valkey.execute_command("ACL", "SETUSER", "ada", "on", f">{SECRET}", "~*", "&*", "+@all", "-@scripting")
    place = urlsplit(own_valkey.url)
    report = examine(redis_url=place._replace(netloc=f"ada:{SECRET}@{place.hostname}:{place.port}").geturl())
    assert "does not run the token log's script" in report.lines("problem", "redis")[0]


def test_it_leaves_nothing_in_redis(examine: Examine, own_valkey: redis.Redis) -> None:
    assert examine(redis_url=own_valkey.url).code == 0
    assert own_valkey.dbsize() == 0


def test_a_provider_that_refuses_a_key_is_a_problem_that_names_which_one(examine: Examine, stack: Stack) -> None:
    report = examine(providers=providers(stack.provider_url, [PROVIDER_KEY, "bad"]))
    assert report.code == 1
    assert report.lines("problem", "provider local") == [
        "provider local It refuses key 2 of 2 (The provider answered 401: Incorrect API key provided: [key]): "
        "check base_url and api_keys."
    ]


def test_the_keys_of_a_file_are_looked_at_too(examine: Examine, stack: Stack, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# of the team\n{PROVIDER_KEY}\nbad\n")
    report = examine(providers=providers(stack.provider_url, [], api_keys_file=str(file)))
    assert len(report.lines("problem", "provider local It refuses key 2 of 2")) == 1
    file.write_text("\n")
    report = examine(providers=providers(stack.provider_url, [], api_keys_file=str(file)))
    assert any("its api_keys_file" in line for line in report.lines("problem", "configuration"))


def test_a_provider_that_is_down_is_a_problem(examine: Examine) -> None:
    report = examine(providers=providers(f"http://127.0.0.1:{free_port()}/v1", [SECRET]))
    assert report.code == 1
    assert "does not answer" in report.lines("problem", "provider local")[0]


def test_a_model_that_the_provider_does_not_list_is_advised_upon(examine: Examine) -> None:
    report = examine(models='{"fast": ["local/demo"], "slow": ["local/demmo"], "*": ["local/*"]}')
    assert report.code == 0
    assert len(report.lines("advice", "provider local")) == 1
    assert "'demmo'" in report.lines("advice", "provider local")[0]


def test_models_that_are_no_json_are_told_by_their_variable_and_the_rest_is_still_checked(examine: Examine) -> None:
    report = examine(models=f'{{"fast": [{SECRET}')
    assert report.code == 1
    assert report.lines("problem", "configuration")[0].startswith("configuration  RUNSTREAM_MODELS: It takes JSON")
    assert len(report.lines("ok")) == 6


def test_the_keys_of_each_identity_provider_are_read(examine: Examine) -> None:
    async def examined() -> Report:
        async with providing() as provider, providing() as broken:
            provider.publish(Key("a", "ES256"), Key("b", "EdDSA"))
            of_both = {"audience": "runstream", "tenant": "acme"}
            issuers = [
                {"issuer": "good", "jwks_url": provider.url, **of_both},
                {"issuer": "empty", "jwks_url": broken.url, **of_both},
                {"issuer": "gone", "jwks_url": f"http://127.0.0.1:{free_port()}/", **of_both},
                {"issuer": "shared", "secret": SECRET * 4, **of_both},
            ]
            return await asyncio.to_thread(examine, jwt=json.dumps(issuers))

    report = outside_the_loop(lambda: asyncio.run(examined()))
    assert report.code == 1
    assert [line.split(maxsplit=1)[1] for line in report.lines("ok", "issuer")] == [
        "good publishes keys for ES256 (1), EdDSA (1).",
        "shared shares a secret with us.",
    ]
    empty, gone = report.lines("problem", "issuer")
    assert "empty cannot be used: It has no key for RS256, PS256, ES256, EdDSA: check its jwks_url." in empty
    assert "gone cannot be used: The provider could not be connected to: check its jwks_url." in gone


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("providers", '{"local": {"kind": "openai"}}', "RUNSTREAM_PROVIDERS at local.base_url: Field required"),
        (
            "providers",
            '{"local": {"kind": "smoke", "base_url": "http://x"}}',
            "'smoke': give one of anthropic, openai, openai-responses",
        ),
        (
            "providers",
            '{"local": {"kind": "openai", "base_url": "http://x", "requests_per_minute": 0}}',
            "RUNSTREAM_PROVIDERS at local.requests_per_minute: Input should be greater than or equal to 1",
        ),
        (
            "providers",
            '{"local": {"kind": "openai", "base_url": "http://x", "api_keys_file": "/no/such"}}',
            "The provider 'local' has no keys from its api_keys_file: /no/such: No such file or directory.",
        ),
        (
            "providers",
            '{"local": {"kind": "openai", "base_url": "http://x", "api_keys": ["k"], "api_keys_file": "/no/such"}}',
            "has no keys from its api_keys_file",
        ),
        ("models", '{"fast": ["nobody/x"]}', "'nobody/x' of 'fast' is not 'provider/model'"),
        (
            "tenant_models",
            '{"acme": {"fast": ["nobody/x"]}}',
            "RUNSTREAM_TENANT_MODELS of 'acme': the target 'nobody/x'",
        ),
        ("models", None, "No model is configured"),
        ("default_model", "nothing", "RUNSTREAM_DEFAULT_MODEL: No model of this name is configured."),
        ("lease", "soon", "RUNSTREAM_LEASE: Input should be a valid number"),
        ("lease", "0.5", "RUNSTREAM_LEASE has to be longer than RUNSTREAM_LEASE_INTERVAL"),
    ],
)
def test_a_setting_that_cannot_be_used_is_one_sentence(
    examine: Examine, variable: str, value: str | None, told: str
) -> None:
    report = examine(**{variable: value})
    assert report.code == 1
    assert any(told in line for line in report.lines("problem", "configuration")), report.text


def test_everything_that_is_wrong_is_told_at_once(examine: Examine) -> None:
    report = examine(
        database_url=f"postgresql://ada:{SECRET}@127.0.0.1:{free_port()}/runstream",
        redis_url=f"redis://:{SECRET}@127.0.0.1:{free_port()}/0",
        providers=providers(f"http://127.0.0.1:{free_port()}/v1", [SECRET]),
        models="{",
        lease="soon",
    )
    assert report.code == 1
    assert len(report.lines("problem")) == 6
    assert report.text.endswith("6 problems.\n")


def providers(base_url: str, keys: list[str], **more: str) -> str:
    return json.dumps({"local": {"kind": "openai", "base_url": base_url, "api_keys": keys, **more}})


def secrets_of(environment: dict[str, str]) -> set[str]:
    """What must be in no line: passwords and keys, the well-known "bad" key left out."""
    found = {SECRET, PROVIDER_KEY}
    for name in ("RUNSTREAM_DATABASE_URL", "RUNSTREAM_REDIS_URL"):
        password = re.search(r":([^:@/]+)@", environment[name])
        if password:
            found.add(password[1])
    return found


def execute(database_url: str, statements: str) -> None:
    async def run() -> None:
        connection = await asyncpg.connect(database_url, timeout=DEADLINE, command_timeout=DEADLINE)
        try:
            await connection.execute(statements)
        finally:
            await connection.close()

    outside_the_loop(lambda: asyncio.run(run()))
