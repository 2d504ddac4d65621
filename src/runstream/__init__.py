"""Runstream runs LLM generations for an application and never loses one."""

from importlib.metadata import version

__version__ = version("runstream")
