"""Tar files as somebody else wrote them, used where they lie: found by a pattern, indexed, and opened as a set."""
