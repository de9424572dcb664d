"""Every strategy against every situation: the tables of what is expected, and the runs that confirm or correct them.

Read `tables` first (what a table is, and what its words mean), then `plan` (which runs it asks for), `cell` (one run
and its judgement), `costs`, `pool` (many runs at once), `command` (all of it), `words`, `display` and `markdown` (how
people read it). The tables themselves are the YAML files beside this one.
"""
