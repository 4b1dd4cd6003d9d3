"""The configuration file: which one it is, what it says, and whether it has changed since it was read."""

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from quotas import plan_files
from quotas.errors import ConfigError, Fault
from quotas.plans import Config

LOCAL_FILE = Path("quotas.yaml")
STARTER = "the starter plans"

Fingerprint = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """A plan file by its absolute path; None is the starter plans, which never change."""

    path: Path | None

    @property
    def source(self) -> str:
        """What it is called in messages."""
        return STARTER if self.path is None else str(self.path)

    def read(self) -> Config:
        """What it says. Raises ConfigError with every fault."""
        return plan_files.parse(self.text(), self.source)

    def text(self) -> str:
        """Its text. Raises ConfigError when it cannot be had."""
        if self.path is None:
            return (files("quotas") / "examples" / "quotas.example.yaml").read_text("utf-8")
        try:
            return self.path.read_text("utf-8")
        except OSError as error:
            raise ConfigError(self.source, [Fault("(file)", f"cannot be read: {error.strerror}")]) from error
        except UnicodeDecodeError as error:
            raise ConfigError(self.source, [Fault("(file)", "is not UTF-8 text")]) from error

    def fingerprint(self) -> Fingerprint | None:
        """What changes when the file does, links followed on the way to it; None while it cannot be found."""
        if self.path is None:
            return None
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def find(named: Path | None) -> ConfigFile:
    """The named file, else `quotas.yaml` in the working directory if there is one, else the starter plans."""
    if named is not None:
        return ConfigFile(named.absolute())
    return ConfigFile(LOCAL_FILE.absolute() if LOCAL_FILE.exists() else None)
