"""What is compared: the provider alone, LiteLLM's proxy, and Runstream with all of its gateway or nothing of it."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import MappingProxyType

import orjson
from tests.bench.clients import DirectClient
from tests.bench.gateway.calls import MODEL
from tests.bench.load import Address
from tests.bench.processes import SystemFailed, free_port
from tests.bench.systems import Bench, Direct, Running, Runstream, System, Unavailable, cache_folder

from runstream.settings import LimitSettings, ScopedLimitSettings

LITELLM = "litellm[proxy]==1.106.2"
LITELLM_KEY = "sk-bench"
NEVER = 10**7
"""A limit that nothing here comes near, be it of requests, of tokens or of dollars."""


class LiteLLM:
    """One worker, set as its page on production says, and with a master key alone.

    Keys, limits and budgets of users need its database, and that one a driver which fetches programs from elsewhere
    when it starts. Without them a call costs it less.
    """

    name, title, holds_readers = "litellm", "LiteLLM proxy", False

    async def prepare(self, bench: Bench) -> None:
        """Install it, once for all benchmarks, in the user's cache."""
        if not shutil.which("uv"):
            raise Unavailable("uv is not installed")
        folder = cache_folder() / LITELLM.translate(str.maketrans("[]=", "---"))
        self.program = folder / "bin" / "litellm"
        if self.program.exists():
            return
        folder.parent.mkdir(parents=True, exist_ok=True)
        install = ("uv", "pip", "install", "--python", str(folder), "--compile-bytecode", LITELLM)
        try:
            await bench.launcher.output("uv venv", ("uv", "venv", "--clear", "--python", "3.11", str(folder)), {})
            await bench.launcher.output("uv pip install", install, {})
        except SystemFailed as failure:
            raise Unavailable(f"uv could not install {LITELLM}") from failure

    @asynccontextmanager
    async def running(self, bench: Bench) -> AsyncIterator[Running]:
        port = free_port()
        config = bench.launcher.directory / "litellm.yaml"
        config.write_bytes(orjson.dumps(self.configuration(bench)))  # YAML takes JSON
        serve = (str(self.program), "--config", str(config), "--host", "127.0.0.1", "--port", str(port))
        env = {"LITELLM_MODE": "PRODUCTION", "LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        options = ("--num_workers", "1", "--telemetry", "False")
        async with bench.launcher.running("litellm", serve + options, env, port=port) as server:
            yield Running(DirectClient(Address(port, LITELLM_KEY)), (server.pid,), server.pid)

    def configuration(self, bench: Bench) -> dict[str, object]:
        target = {"model": f"openai/{MODEL}", "api_base": f"{bench.provider_url}/v1", "api_key": "k"}
        return {
            "model_list": [{"model_name": MODEL, "litellm_params": target}],
            "litellm_settings": {"request_timeout": 600, "set_verbose": False, "json_logs": True},
            "general_settings": {"master_key": LITELLM_KEY},
        }


class GatewayOff(Runstream):
    """No limits, no prices, one target."""

    name, title = "off", "Runstream, gateway off"


class GatewayOn(Runstream):
    """Every limit of every scope, too high to refuse anything; prices; two targets; a cache that has no answer yet."""

    name, title = "on", "Runstream, gateway on"
    asked = MappingProxyType({"cache": "read"})

    def environment(self, bench: Bench, database: str) -> dict[str, str]:
        provider = {"kind": "openai", "base_url": f"{bench.provider_url}/v1", "api_keys": ["k"]}
        own = {
            "RUNSTREAM_PROVIDERS": {"bench": provider, "second": provider},
            "RUNSTREAM_MODELS": {"sim:*": ["bench/*", "second/*"]},
            "RUNSTREAM_PRICES": {"bench/*": {"input": 0.15, "output": 0.6, "cached": 0.075}},
            "RUNSTREAM_LIMITS": {scope: dict.fromkeys(LimitSettings.model_fields, NEVER) for scope in SCOPES},
        }
        return super().environment(bench, database) | {
            name: orjson.dumps(value).decode() for name, value in own.items()
        }


SCOPES = tuple(ScopedLimitSettings.model_fields)
SYSTEMS: tuple[System, ...] = (Direct(), LiteLLM(), GatewayOff(), GatewayOn())
NAMES = tuple(system.name for system in SYSTEMS)
