"""What a user can get wrong, as exceptions.

Every message is one sentence: what was wrong, where (path, key, shape) and what to do. The command line
prints it without a traceback; a library caller catches `UserError` or one of its kinds.

    UserError
    ├── ConfigError      a key, a value or a combination in the YAML or on the command line
    ├── DataError        pictures, metadata, captions
    ├── WorkerError      a process that loads pictures or features ended or hangs
    ├── StoreError       a feature store that does not fit what is asked of it
    ├── TowerError       a frozen encoder or LLM that cannot be found or used
    ├── LostProcessError another process of the same run has died, hangs, or cannot be reached
    └── CheckpointError  a model folder that is no such thing, or lacks a part
        └── AbsentPartError  a part of the bridge that a file did not hold and that a call needs
"""


class UserError(Exception):
    """Base of everything that a user can cause and can mend."""


class ConfigError(UserError):
    """A configuration key, value or combination is wrong."""


class DataError(UserError):
    """Pictures, metadata or captions are not as they must be."""


class WorkerError(UserError):
    """A process that loads pictures or features ended, hangs, or has no memory."""


class StoreError(UserError):
    """A feature store does not match the encoder, pictures or precision asked for."""


class TowerError(UserError):
    """A frozen encoder or language model cannot be found or cannot be used."""


class LostProcessError(UserError):
    """Another process of the same run has died, hangs, or cannot be reached."""


class CheckpointError(UserError):
    """A model folder cannot be read, or is not what is needed."""


class AbsentPartError(CheckpointError):
    """The bridge lacks a part that this call needs (absent is never random)."""
