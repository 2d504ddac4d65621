"""Requests of all kinds upon real processes: drawn from the OpenAPI document, most of them with something wrong.

`drawing.py` draws what a schema allows and spoils it, `asks.py` makes requests of that, `people.py` says who asks and
may see what, `known.py` remembers what the answers named, and `oracle.py` says what is wrong with an answer. The long
form is `python -m tests.fuzz --requests 50000`.
"""
