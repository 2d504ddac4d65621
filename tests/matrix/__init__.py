"""Every route, asked by every kind of principal, for its own things, its tenant's and another tenant's.

A new route is a line in `rows.py`; a new kind of thing is a function in `things.py`, a new kind of principal a line in
`columns.py`. `integration/test_access_matrix.py` asks.
"""
