"""What a server's answers mean to whoever asks again."""

TEMPORARY = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Codes of failures that may pass."""
