"""What processes cost: CPU time and resident memory of a process and all its children."""

import os
from collections.abc import Iterable

import psutil


def cpu_seconds(roots: Iterable[int]) -> float:
    """CPU time used so far, children that have already ended included."""
    total = 0.0
    for root in roots:
        for process in tree(root):
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += times.user + times.system + times.children_user + times.children_system
    return total


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
