"""Everything around the machines: scenarios and stories, the worlds that carry them, the trace and its judges.

In reading order: `scenario` (what is to happen), `faults` (its rules), `plugins` (who completes what), the worlds
`virtual` and `live`, `experiment` (one run), `trace`, `oracles`, `verdict` and `narrative` (what came of it), `cli`.
"""
