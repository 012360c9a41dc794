"""The folder of one local run: who runs, where it listens, and what it keeps there."""

import fcntl
import json
import os
import secrets
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

from autoglm_operator.local.gateway_process import RECORD as GATEWAY_RECORD
from autoglm_operator.local.process_group import Identity
from autoglm_operator.local.ray_head import STATE_FILE as RAY_RECORD
from autoglm_operator.local.store import write_atomically


class AlreadyRunning(RuntimeError):
    """Another process uses the folder."""


@dataclass(frozen=True)
class Running:
    """A live `autoglm up`: its process, and where its gateway listens."""

    pid: int
    started: str
    manifest: str
    url: str
    admin_url: str

    @property
    def alive(self) -> bool:
        """Whether that very process still runs."""
        return Identity(self.pid, self.started).alive()


@dataclass(frozen=True)
class StateDir:
    """Paths in the folder. Everything in it is for its user alone: it holds tokens."""

    path: Path

    @staticmethod
    def default() -> Path:
        """AUTOGLM_STATE_DIR, or the user's state folder."""
        if chosen := os.environ.get("AUTOGLM_STATE_DIR"):
            return Path(chosen)
        base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
        return Path(base) / "autoglm"

    @property
    def objects(self) -> Path:
        """The stored manifests with their statuses."""
        return self.path / "objects"

    @property
    def ray(self) -> Path:
        """Ray's log and record."""
        return self.path / "ray"

    @property
    def gateway(self) -> Path:
        """The gateway's log, record and state."""
        return self.path / "gateway"

    @property
    def request(self) -> Path:
        """The body of the example request."""
        return self.path / "request.json"

    @property
    def events(self) -> Path:
        """The last events."""
        return self.path / "events.json"

    @property
    def log(self) -> Path:
        """What the controller logs."""
        return self.path / "controller.log"

    @property
    def gateway_token_file(self) -> Path:
        """The secret shared with the gateway."""
        return self.gateway / "token"

    @property
    def records(self) -> tuple[Path, ...]:
        """What is known of the processes that were started, for the case that their starter is killed."""
        return (self.ray / RAY_RECORD, self.gateway / GATEWAY_RECORD)

    def make(self) -> None:
        """Make the folders."""
        for folder in (self.path, self.objects, self.ray, self.gateway):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def lock(self) -> TextIO:
        """Hold the folder until the returned file is closed or this process ends. Raises AlreadyRunning."""
        self.make()
        file = (self.path / "lock").open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            running = self.running()
            who = f" by process {running.pid} for {running.manifest}" if running else ""
            raise AlreadyRunning(
                f"{self.path} is in use{who}: stop that with `autoglm down`, or give --state-dir another folder"
            ) from None
        return file

    def token(self) -> str:
        """A new secret for the gateway, written to its file."""
        token = secrets.token_hex(32)
        write_atomically(self.gateway_token_file, token)
        return token

    def identity(self) -> str:
        """Names this folder among all others; made at the first run and kept."""
        path = self.path / "identity"
        try:
            known = path.read_text().strip()
        except OSError:
            known = ""
        if not known:
            known = str(uuid.uuid4())
            write_atomically(path, known)
        return known

    def next_epoch(self) -> int:
        """Grows with every run, as a lease's does with every leader."""
        path = self.path / "epoch"
        try:
            epoch = int(path.read_text()) + 1
        except (OSError, ValueError):
            epoch = 1
        write_atomically(path, str(epoch))
        return epoch

    def announce(self, manifest: Path, url: str, admin_url: str) -> None:
        """Say that this process runs and where."""
        me = Identity.of(os.getpid())
        assert me is not None, "this process lives"
        running = Running(me.pid, me.started, str(manifest), url, admin_url)
        write_atomically(self.path / "up.json", json.dumps(asdict(running)))

    def running(self) -> Running | None:
        """The live run of this folder."""
        try:
            found = Running(**json.loads((self.path / "up.json").read_text()))
        except (OSError, ValueError, TypeError):
            return None
        return found if found.alive else None

    def withdraw(self) -> None:
        """Say that nothing runs here any more."""
        (self.path / "up.json").unlink(missing_ok=True)
