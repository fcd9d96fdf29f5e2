"""Errors of the store. Each one's text is a sentence (or two) that can be shown to people as it is.

StoreError
├── CannotOpen            the database cannot be used; the bot should stop and say why
│   ├── NotWritable       the folder or the file refuses writing
│   ├── InUse             another program holds it locked
│   ├── Unreadable        damaged, or not a Punchline database
│   └── NewerDatabase     written by a newer version of the code
├── StoreFailed           a read or write broke later (disk full, file locked); nothing was half-written
├── JobActive             this guild already has a fine-tune that has not ended
├── DuelOpen              this channel already has a duel that has not ended
└── Refused (ValueError)  what was asked for breaks a rule
    ├── TooShort, TooLong, BadCharacters      the text of a joke
    ├── LicenceMissing                        an import without a licence
    ├── AuthorMissing                         a person's joke without the person
    └── UnknownConsent                        a consent version that was never shown to anybody
"""

from pathlib import Path

from bot.errors import BotError


class StoreError(BotError):
    """Anything the store refuses or fails to do."""


class CannotOpen(StoreError):
    """The database cannot be opened."""


class NotWritable(CannotOpen):
    """The database's folder or file refuses writing."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(
            f"Cannot write the database {path}: {reason}. "
            "Give this user write permission there, or set PUNCHLINE_HOME to another folder."
        )


class InUse(CannotOpen):
    """Another program keeps the database locked."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"Another program is holding the database {path}. Stop the other Punchline, or the tool that has it open."
        )


class Unreadable(CannotOpen):
    """The file is damaged, or something else than a Punchline database."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(
            f"Cannot read the database {path}: {reason}. "
            "Put a backup in its place, or move the file away to start with an empty one."
        )


class NewerDatabase(CannotOpen):
    """A newer version of the code has migrated the database."""

    def __init__(self, path: Path, found: int, known: int) -> None:
        super().__init__(
            f"The database {path} was written by a newer Punchline (schema {found}; this one knows up to {known}). "
            "Update Punchline, or put back a backup from before the update."
        )


class StoreFailed(StoreError):
    """SQLite could not read or write, for `reason`; the transaction was undone."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"The joke collection could not be used just now ({reason}). Nothing was changed; try again.")
        self.reason = reason


class JobActive(StoreError):
    """A guild runs one fine-tune at a time."""

    def __init__(self) -> None:
        super().__init__("A fine-tune is already running here. Wait for it, or cancel it first.")


class DuelOpen(StoreError):
    """A channel holds one duel at a time."""

    def __init__(self) -> None:
        super().__init__("A duel is already open in this channel. Vote in it, or wait until it has ended.")


class Refused(StoreError, ValueError):
    """What was asked for breaks a rule; the text says which."""


class TooShort(Refused):
    """A joke under the least length."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"A joke needs at least {limit} characters that can be seen.")


class TooLong(Refused):
    """A joke over the greatest length."""

    def __init__(self, length: int, limit: int) -> None:
        super().__init__(f"This joke has {length:,} characters; the most is {limit:,}.")


class BadCharacters(Refused):
    """Control characters, or half of a surrogate pair."""

    def __init__(self) -> None:
        super().__init__("This joke contains characters that cannot be stored. Type it again as plain text.")


class LicenceMissing(Refused):
    """An import that does not say under which licence."""

    def __init__(self) -> None:
        super().__init__('An import must name the licence of its jokes, for example "CC0-1.0".')


class AuthorMissing(Refused):
    """A person's joke without the person, whose consent could then never be withdrawn."""

    def __init__(self) -> None:
        super().__init__("A joke that a person wrote must be stored with its author.")


class UnknownConsent(Refused):
    """A consent version nobody was ever shown."""

    def __init__(self, version: int, known: int) -> None:
        super().__init__(f"There is no consent text of version {version}; the current one is {known}.")
