"""For every test: hypothesis sets no deadline, for no test asserts a time."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
