"""The gateway's benchmark measures what it says: with everything of the gateway on, and with all calls answered."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import orjson
import pytest
from tests.bench.gateway.__main__ import run
from tests.bench.gateway.calls import Calls
from tests.bench.gateway.report import Results, as_json, table
from tests.bench.gateway.systems import GatewayOn
from tests.bench.processes import Launcher
from tests.bench.services import services
from tests.bench.systems import Direct

from runstream.domain.limits import Scope
from runstream.settings import LimitSettings, Settings

LOADS = (Calls("alone", "one after another", 2, 2, 1), Calls("together", "16 at once", 1, 20, 16))


def test_every_limit_of_every_scope_holds_where_the_gateway_is_on(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = SimpleNamespace(provider_url="http://127.0.0.1:1", services=SimpleNamespace(redis_url="redis://r"))
    for name, value in GatewayOn().environment(bench, "postgresql://d").items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    for scope, bounds in settings.limits.bounds().items():
        assert {name for name, most in bounds.items() if most is not None} == set(LimitSettings.model_fields), scope
    assert len(settings.limits.bounds()) == len(Scope)
    assert all(len(targets) > 1 for targets in settings.models.values())


async def test_all_calls_are_answered_and_each_has_its_figures(server_directory: Path) -> None:
    results = Results([Direct(), GatewayOn()], LOADS)
    with services(server_directory) as shared:
        await run(results, {"direct": shared, "on": shared}, Launcher(server_directory))
    assert not results.missing
    lines = table(results).splitlines()
    assert "| complete | 24 of 24 | 24 of 24 |" in lines
    cells = [cell for line in lines[2:] if line.startswith("|") for cell in line.strip("|").split("|")]
    assert not {"nan", "-", ""} & {cell.strip() for cell in cells}
    blocks = orjson.loads(orjson.dumps(as_json(results)))["blocks"]
    assert {(block["load"], block["system"]) for block in blocks} == {
        (load.name, system.name) for load in LOADS for system in results.systems
    }
    assert all(figures["cpu_us"] > 0 for block in blocks for figures in block["figures"])
