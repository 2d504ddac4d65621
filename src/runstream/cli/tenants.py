"""The commands that administer what tenants are served on."""

import asyncio
from typing import Annotated

import typer

tenants = typer.Typer(no_args_is_help=True, help="Tenants: create, list, show, suspend, resume, remove.")

plans = typer.Typer(no_args_is_help=True, help="Plans of tenants: list, set, remove.")

flags = typer.Typer(no_args_is_help=True, help="Flags: list, set, explain, remove.")

TenantName = Annotated[str, typer.Argument(metavar="TENANT")]
FlagName = Annotated[str, typer.Argument(metavar="FLAG")]
PlanName = Annotated[str, typer.Argument(metavar="PLAN")]


@tenants.command("create")
def create_tenant(tenant: TenantName) -> None:
    """Make a tenant. A key of a tenant that is not there makes it as well."""
    from runstream.commands.tenants import create

    print(asyncio.run(create(tenant)))


@tenants.command("list")
def list_tenants() -> None:
    """List all tenants, by name."""
    from runstream.commands.tenants import listed

    for line in asyncio.run(listed()):
        print(line)


@tenants.command("show")
def show_tenant(tenant: TenantName) -> None:
    """Show a tenant, what holds for it with the settings of this process, and where that is said."""
    from runstream.commands.tenants import shown

    for line in asyncio.run(shown(tenant)):
        print(line)


@tenants.command("set")
def set_tenant(
    tenant: TenantName,
    plan: Annotated[str | None, typer.Option(help="The plan that it is to have; '' for none.")] = None,
    overrides: Annotated[
        str | None, typer.Option(help="What is to hold in the plan's place, as JSON, as a plan has it; '' for nothing.")
    ] = None,
) -> None:
    """Have a tenant on other terms, within a second in every process."""
    from runstream.commands.tenants import allow

    print(asyncio.run(allow(tenant, plan=plan, overrides=overrides)))


@tenants.command("suspend")
def suspend_tenant(
    tenant: TenantName,
    cancel_running: Annotated[bool, typer.Option("--cancel-running", help="Cancel what runs, too.")] = False,
) -> None:
    """Refuse a tenant's new runs and have its queued ones wait, within a second in every process."""
    from runstream.commands.tenants import suspend

    print(asyncio.run(suspend(tenant, cancel_running=cancel_running)))


@tenants.command("resume")
def resume_tenant(tenant: TenantName) -> None:
    """Serve a suspended tenant again: what waits goes on."""
    from runstream.commands.tenants import resume

    print(asyncio.run(resume(tenant)))


@tenants.command("remove")
def remove_tenant(tenant: TenantName) -> None:
    """Delete a suspended tenant and all that is kept of it. Workers do it, and it cannot be taken back."""
    from runstream.commands.tenants import remove

    print(asyncio.run(remove(tenant)))


@plans.command("list")
def list_plans() -> None:
    """List all plans, and what they say."""
    from runstream.commands.tenants import plans as listed

    for line in asyncio.run(listed()):
        print(line)


@plans.command("set")
def set_plan(
    name: PlanName,
    allowance: Annotated[str, typer.Argument(help='JSON: {"limits": {"tenant": {"cost_per_month": 100}}}')],
) -> None:
    """Make a plan, or have it say this in the place of all that it said, within a second in every process."""
    from runstream.commands.tenants import put_plan

    asyncio.run(put_plan(name, allowance))
    print(f"The plan {name} says this now.")


@plans.command("remove")
def remove_plan(name: PlanName) -> None:
    """Remove a plan that no tenant has."""
    from runstream.commands.tenants import remove_plan as remove

    asyncio.run(remove(name))
    print(f"There is no plan {name} any more.")


@flags.command("list")
def list_flags() -> None:
    """List all flags, and what they say."""
    from runstream.commands.tenants import flags as listed

    for line in asyncio.run(listed()):
        print(line)


@flags.command("set")
def set_flag(
    name: FlagName,
    rule: Annotated[str, typer.Argument(help='JSON: {"of": {"model": "new-*"}, "share": 0, "tenants": {"acme": 0.1}}')],
) -> None:
    """Make a flag, or have it say this in the place of all that it said, within a second in every process."""
    from runstream.commands.tenants import put_flag

    asyncio.run(put_flag(name, rule))
    print(f"The flag {name} says this now.")


@flags.command("explain")
def explain_flag(name: FlagName, tenant: TenantName, user: Annotated[str, typer.Argument(metavar="USER")]) -> None:
    """Say whether a flag is on for a user, and why."""
    from runstream.commands.tenants import explain

    print(asyncio.run(explain(name, tenant, user)))


@flags.command("remove")
def remove_flag(name: FlagName) -> None:
    """Remove a flag: what it was of is on for everybody then."""
    from runstream.commands.tenants import remove_flag as remove

    asyncio.run(remove(name))
    print(f"There is no flag {name} any more.")
