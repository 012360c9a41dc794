"""The ranks of a gang as child processes of this one: where no Ray is, as in tests and tools."""

import subprocess
import sys
from pathlib import Path

from typing_extensions import override

from autoglm_serving.engines.gang.leader import Launcher, Rank
from autoglm_serving.engines.gang.seat import Devices

_END_S = 10.0


class ChildRank(Rank):
    """One child process."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self.process = process

    @override
    def ended(self) -> str | None:
        code = self.process.poll()
        return None if code is None else f"exit code {code}"

    @override
    def stop(self) -> None:
        self.process.kill()
        self.process.wait(_END_S)


class ChildRanks(Launcher):
    """Child processes, which see all devices of the machine. `module` is run with the gang's address and the rank."""

    def __init__(self, module: str = "autoglm_serving.engines.gang.member") -> None:
        self._module = module
        self.started: list[ChildRank] = []

    @property
    @override
    def devices(self) -> Devices:
        return "shared"

    @override
    def start(self, rank: int, address: Path) -> Rank:
        command = [sys.executable, "-m", self._module, str(address), str(rank)]
        child = ChildRank(subprocess.Popen(command, stdin=subprocess.DEVNULL))
        self.started.append(child)
        return child
