"""Answers that several runs are given: kept ones, and those of calls that are under way."""
