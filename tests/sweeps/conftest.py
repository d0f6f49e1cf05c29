"""The sweep on stand-ins is every sweep test's home."""

from sweep_runs import home  # noqa: F401  (a fixture)
