"""What processes cost: CPU time and resident memory of a process and all its children."""

import os
import time
from collections.abc import Iterable

import psutil

CPU_CLOCK = 2
"""The low bits of the id of a process's CPU clock on Linux; above them are the inverted bits of its pid."""


def cpu_seconds(roots: Iterable[int]) -> float:
    """CPU time used so far, children that have already ended included."""
    total = 0.0
    for root in roots:
        for process in tree(root):
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += own_cpu_seconds(process) + times.children_user + times.children_system
    return total


def own_cpu_seconds(process: psutil.Process) -> float:
    """To the nanosecond where there is such a clock; else as the system counts, in hundredths of a second."""
    try:
        return time.clock_gettime(~process.pid << 3 | CPU_CLOCK)
    except OSError:
        times = process.cpu_times()
        return float(times.user + times.system)


def others_cpu_seconds() -> float:
    """CPU time that programs which are no part of the benchmark have used so far."""
    times = psutil.cpu_times()
    return float(times.user + times.system) - cpu_seconds([os.getpid()])


def rss_bytes(roots: Iterable[int]) -> int:
    total = 0
    for root in roots:
        for process in tree(root):
            try:
                total += process.memory_info().rss
            except psutil.NoSuchProcess:
                continue
    return total


def tree(root: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(root)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
