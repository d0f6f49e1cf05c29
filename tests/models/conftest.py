"""Folders of a tiny pair."""

from pair_folders import home, saved  # noqa: F401
