"""The family of errors that a user can cause, and that a command reports in one line."""


class UserError(ValueError):
    """Something the user gave cannot be used; the message says what, where, and what is accepted."""
