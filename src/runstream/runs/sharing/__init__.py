"""Answers that several runs are given: kept ones, and those of calls that are under way.

`answers` is what a run asks; `calls` has all calls of this process, `call` is one of them, and `ways` are how what is
said gets into it; `given` is what a run has that did not ask itself. A call's `leader` is the run that began it.
"""
