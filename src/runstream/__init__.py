"""Runstream runs LLM generations for an application and never loses one."""
