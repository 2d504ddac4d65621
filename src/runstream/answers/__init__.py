"""Which run has the answer to a request, and who asks for it now, as Redis has it.

Only names are here: what the answer is, `storage.answers` reads from Postgres, and `runs.sharing` gives it to runs.
"""
