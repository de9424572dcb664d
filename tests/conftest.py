"""Settings that hold for every test."""

from hypothesis import settings

# The same examples in every run, so that a red test is red for everyone; no deadline, since no test asserts a time.
settings.register_profile("house", derandomize=True, deadline=None)
settings.register_profile("search", derandomize=False, deadline=None, max_examples=5_000)
settings.load_profile("house")
