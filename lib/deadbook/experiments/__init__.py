"""The thesis's experiments, each a short loop that yields rows of tidy tables, in a module of its own.

A loop is a generator of (table, row). A row is a dict of columns; where some are arrays, it stands for as
many rows. The settings are the keyword arguments; `deadbook.runs` computes, keeps and finds the tables.
"""
