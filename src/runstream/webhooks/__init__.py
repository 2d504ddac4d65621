"""Webhooks: a tenant's own servers are told of its runs, signed as Standard Webhooks has it, at least once."""
