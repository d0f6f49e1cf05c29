"""Fixtures that several files share."""

from pair_folders import home, no_forward, saved  # noqa: F401
