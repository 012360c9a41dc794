"""A rank's place in its gang: which part it holds, on which device it computes, and how the ranks find each other.

All ranks are on one machine. They meet in a folder that only their user may enter: torch's store is a file there, and the
control connection a Unix socket; what torch moves the sums with listens on the loopback interface alone.
"""

import os
import sys
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from autoglm_serving.engines.interface import EngineOptionsInvalid
from autoglm_serving.engines.shards import FIELD

if TYPE_CHECKING:
    import torch

Devices = Literal["own", "shared"]
"""Whether a rank sees its own accelerator alone (Ray gives it one), or those of all ranks."""

GANG_DEVICES = ("auto", "cpu", "cuda", "npu")
"""What `options.device` may be: each rank has a device of its own of this kind."""
_INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
"""Where gloo and NCCL listen for the other ranks; left alone, on an interface that other machines reach."""
_BACKENDS = {"cpu": "gloo", "cuda": "nccl", "npu": "hccl"}


@dataclass(frozen=True)
class Seat:
    """Place `rank` of `ranks`. `patience_s`: how long a rank waits for the others inside one step."""

    rank: int
    ranks: int
    folder: Path
    devices: Devices
    patience_s: float

    def device(self, name: str) -> "torch.device":
        """The rank's device for an engine's option; raises EngineOptionsInvalid when there is none for it."""
        import torch

        from autoglm_serving.engines.vision_tower import device

        kind = device(name).type if name == "auto" else name
        if kind == "cpu":
            return torch.device("cpu")
        there = int(torch.get_device_module(kind).device_count())
        needed = 1 if self.devices == "own" else self.ranks
        if there < needed:
            raise EngineOptionsInvalid(
                f"{FIELD} {self.ranks} needs {needed} {kind} devices here and there are {there}: set it to {max(there, 1)}"
            )
        return torch.device(kind, 0 if self.devices == "own" else self.rank)

    def join(self, device: "torch.device") -> None:
        """Enter the process group of all ranks; waits for them. A rank that is lost makes the others' calls fail."""
        import torch
        import torch.distributed as dist
        from torch._C._distributed_c10d import FileStore

        if dist.is_initialized():  # a gang that this process led before
            dist.destroy_process_group()
        meet_on_this_machine()
        if device.type != "cpu":
            torch.get_device_module(device.type).set_device(device)
        dist.init_process_group(
            backend=_BACKENDS[device.type],
            store=FileStore(str(self.folder / "store"), self.ranks),
            rank=self.rank,
            world_size=self.ranks,
            timeout=timedelta(seconds=self.patience_s),
        )


def meet_on_this_machine() -> None:
    """From now on gloo and NCCL listen on the loopback interface, unless the environment names another one."""
    if sys.platform == "linux":
        for name in _INTERFACES:
            os.environ.setdefault(name, "lo")
