"""What all tests have in common."""

from __future__ import annotations

from hypothesis import settings

# Speed is measured in `make bench`: on a busy machine an example may take as long as it wants.
settings.register_profile("qnet", deadline=None)
settings.load_profile("qnet")
