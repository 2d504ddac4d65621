"""How the processes that stream tokens look for garbage."""

import gc

_ALLOCATIONS = 20_000
"""Objects that may be made before the young ones are looked through; Python's own figure is 700."""


def look_seldom() -> None:
    """Call it when all that a process begins with is there.

    What is there by then stays, and most of what comes with a token goes with it: looking through either, over and
    over, only holds tokens up.
    """
    gc.freeze()
    gc.set_threshold(_ALLOCATIONS)
