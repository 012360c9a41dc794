"""`autoglm up` as a process, with a manifest of its own."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from support.kubernetes import ROOT
from support.processes import Process

START_S = 600.0
AUTOGLM = (sys.executable, "-m", "autoglm_serving.cli")


class Run:
    """One `autoglm up` with a copy of the example beside its screenshot."""

    def __init__(self, folder: Path) -> None:
        self.state = folder / "state"
        self.manifest = folder / "quickstart.yaml"
        self.temp_dirs: list[Path] = []
        for name in ("quickstart.yaml", "screenshot.png"):
            shutil.copy(ROOT / "examples" / name, folder / name)
        command = [*AUTOGLM, "up", str(self.manifest), "--port", "0", "--state-dir", str(self.state)]
        self.process = Process("autoglm up", command, log=folder / "up.log")

    def wait_said(self, pattern: str) -> re.Match[str]:
        """Wait until it has said something; the match."""
        self.process.wait_for(lambda: self.said(pattern) is not None, f"it says {pattern}", START_S)
        found = self.said(pattern)
        assert found is not None
        return found

    def said(self, pattern: str) -> re.Match[str] | None:
        return re.search(pattern, self.process.log_text(), re.MULTILINE)

    def autoglm(self, *args: str) -> subprocess.CompletedProcess[str]:
        """Another command on the same state folder."""
        return autoglm(*args, "--state-dir", str(self.state))

    def records(self) -> list[Path]:
        """What is written down of Ray and of the gateway while they run."""
        return [path for path in (self.state / "ray/ray.json", self.state / "gateway/gateway.json") if path.exists()]

    def remember_temp_dirs(self) -> None:
        """Ray's and the gateway's temporary folders, while they run."""
        self.temp_dirs = [Path(json.loads(record.read_text())["tempDir"]) for record in self.records()]
        assert len(self.temp_dirs) == 2
        assert all(path.is_dir() for path in self.temp_dirs)

    def leftovers(self) -> list[str]:
        """Processes that name the state folder or a temporary folder, and the temporary folders."""
        names = [str(path) for path in (self.state, *self.temp_dirs)]
        found = [line for line in processes() if any(name in line for name in names)]
        return found + [str(path) for path in self.temp_dirs if path.exists()]


def autoglm(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*AUTOGLM, *args], capture_output=True, text=True, timeout=120, check=False)


def processes() -> list[str]:
    """Command lines of all processes."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
            except OSError:
                continue
    return found
