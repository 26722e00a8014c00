"""Errors that rocket_hub raises on purpose.

Every message says what went wrong, where, what was found and what to do next.

    RocketError                      anything below
    ├── InputError (ValueError)      the user's input; exit code 2
    │   ├── KShotError               a K-shot file that cannot be read
    │   ├── RecipeError              a recipe, option or record that does not fit
    │   ├── TaskError                an unknown task, or an evaluation set that is not in its form
    │   ├── AdapterError             an adapter that cannot be used; has a `reason`
    │   ├── DatasetError             a data set that cannot be used; has a `reason`
    │   ├── LicenceError             ingredients whose licences forbid what was asked
    │   ├── SandboxError             model-written code may not, or cannot safely, be run here
    │   ├── LockError                a locked build met something that is not in its lock file
    │   └── NothingLeftError         a stage rejected every candidate
    ├── HubError                     the Hub did not do what was asked; exit code 3
    │   ├── HubUnreachableError      no answer at all
    │   └── EndpointError            the Hub libraries were imported before the endpoint was set
    └── StorageError                 the run folder cannot be written (full disk, no permission)
"""


class RocketError(Exception):
    """Base of every error that rocket_hub raises on purpose."""


class InputError(RocketError, ValueError):
    """Something the user gave cannot be used."""


class KShotError(InputError):
    """A K-shot file cannot be read; the message names file and line."""


class RecipeError(InputError):
    """A recipe or option does not fit; the message names file and key."""


class TaskError(InputError):
    """A task is unknown, or its evaluation set is not in its form."""


class _ReasonedError(InputError):
    """Something cannot be used, for a `reason`: one word that names the fault, for example `pickle_only`."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class AdapterError(_ReasonedError):
    """An adapter cannot be used; has a `reason`."""


class DatasetError(_ReasonedError):
    """A data set cannot be used; has a `reason`."""


class LicenceError(InputError):
    """The licences of the ingredients forbid what was asked."""


class SandboxError(InputError):
    """Model-written code may not be run, or this machine cannot isolate it."""


class LockError(InputError):
    """A locked build met something that its lock file does not name."""


class NothingLeftError(InputError):
    """A stage rejected every candidate it had."""


class HubError(RocketError):
    """The Hub did not do what it was asked to do."""


class HubUnreachableError(HubError):
    """The Hub did not answer."""


class EndpointError(HubError):
    """The Hub libraries read their endpoint before it could be set."""


class StorageError(RocketError):
    """The run folder cannot be written."""
