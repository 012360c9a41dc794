"""One node: containerd, kubelet, kube-proxy and a name server in namespaces of their own, joined to an API server."""

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from support.kubernetes import ControlPlane, binary
from support.node import image as images
from support.node.image import Image
from support.node.namespaces import Namespaces
from support.processes import Process

Json = dict[str, Any]

SANDBOX = "localhost/autoglm-pause:1"
DOMAIN = "cluster.local"
_SOCKET = "/run/containerd/containerd.sock"
_CNI = "/usr/lib/cni"
READY_S = 300.0


class Node:
    """A node called `name`; `number` (0 to 63) tells its addresses from those of other nodes."""

    def __init__(self, name: str, number: int, directory: Path) -> None:
        self.name = name
        self.outside = f"198.18.{number}.1"
        """This machine's address on the cable to the node."""
        self.address = f"198.18.{number}.2"
        self.pods = f"10.244.{number}.0/24"
        self._number = number
        self._directory = directory
        self.namespaces = Namespaces(name, directory)
        self._device = f"autoglm-{number}"
        self._processes: list[Process] = []

    def connect(self) -> None:
        """Make the namespaces and the cable, so that an API server can listen on this machine's end of it."""
        self._directory.mkdir(parents=True, exist_ok=True)
        self.namespaces.start()
        self.namespaces.link(self.address, self.outside, 30, self._device)

    def join(self, other: "Node") -> None:
        """Lay a cable to another node, over which their pods reach each other; both are connected already."""
        ours, theirs = f"198.18.{64 + self._number}.1", f"198.18.{64 + self._number}.2"
        self.namespaces.wire(other.namespaces, ours, theirs)
        for end, far, via in ((self, other, theirs), (other, self, ours)):
            for there in (far.pods, far.address):
                end.namespaces.checked(f"ip route add {there} via {via} src {end.address}")

    def start(self, api: ControlPlane, pictures: Sequence[Image], mounts: Sequence[Path]) -> None:
        """Join the API server; returns when the node is Ready. `mounts` are in every container, read-only."""
        self._write_settings(api, mounts)
        runtime = self._process("containerd", ["containerd", "--config", self._file("containerd.toml")])
        runtime.wait_for(lambda: self._ctr("version").returncode == 0, "it answers")
        archive = self._file("images.tar")
        images.archive([images.pause(SANDBOX, Path(binary("pause"))), *pictures], archive)
        imported = self._ctr("images", "import", archive)
        assert imported.returncode == 0, imported.stderr
        kubelet = self._process("kubelet", self._kubelet(api))
        self._process("kube-proxy", [binary("kube-proxy"), f"--config={self._file('kube-proxy.yaml')}"])
        self._process("name-server", [binary("coredns"), "-conf", self._file("Corefile")])
        kubelet.wait_for(lambda: self._is_ready(api), "the node is Ready", READY_S)

    def stop(self) -> None:
        """End all of it at once, as a power cut would."""
        self.namespaces.stop()
        for process in self._processes:
            process.kill()

    def log_tails(self) -> str:
        """The ends of its logs."""
        return "\n".join(f"--- {process.name}\n{process.log_tail(15)}" for process in self._processes)

    def _process(self, name: str, command: Sequence[str | Path]) -> Process:
        inside = self.namespaces.inside(*command)
        process = Process(f"{self.name} {name}", inside, log=self._file(f"{name}.log")).start()
        self._processes.append(process)
        return process

    def _ctr(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = self.namespaces.inside("ctr", "--address", _SOCKET, "--namespace", "k8s.io", *arguments)
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def _is_ready(self, api: ControlPlane) -> bool:
        if not api.exists("node", self.name):
            return False
        conditions = api.get("node", self.name)["status"].get("conditions") or []
        return any((one["type"], one["status"]) == ("Ready", "True") for one in conditions)

    def _file(self, name: str) -> Path:
        return self._directory / name

    def _write_settings(self, api: ControlPlane, mounts: Sequence[Path]) -> None:
        (self._directory / "cni").mkdir(exist_ok=True)
        self._write("cni/10-pods.conflist", json.dumps(self._network()))
        self._write("container.json", json.dumps(_container(mounts)))
        self._write("containerd.toml", _CONTAINERD.format(folder=self._directory, sandbox=SANDBOX, cni=_CNI))
        self._write("runc", _RUNC.format(python=sys.executable, runc=shutil.which("runc")))
        self._file("runc").chmod(0o755)
        self._write("kubelet.yaml", yaml.safe_dump(self._kubelet_settings()))
        self._write("kube-proxy.yaml", yaml.safe_dump(self._proxy_settings(api)))
        self._write("Corefile", _COREFILE.format(domain=DOMAIN, kubeconfig=api.kubeconfig))

    def _write(self, name: str, text: str) -> None:
        self._file(name).write_text(text)

    def _network(self) -> Json:
        """Every pod on a cable of its own: what goes from pod to pod is routed, and so passes kube-proxy's rules."""
        addresses = {
            "type": "host-local",
            "ranges": [[{"subnet": self.pods}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        }
        plugins = [
            {"type": "ptp", "ipMasq": True, "ipam": addresses},
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ]
        return {"cniVersion": "0.4.0", "name": "pods", "plugins": plugins}

    def _kubelet(self, api: ControlPlane) -> list[str]:
        return [
            binary("kubelet"),
            f"--config={self._file('kubelet.yaml')}",
            f"--kubeconfig={api.kubeconfig}",
            f"--hostname-override={self.name}",
            f"--node-ip={self.address}",
        ]

    def _kubelet_settings(self) -> Json:
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "containerRuntimeEndpoint": f"unix://{_SOCKET}",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": self.namespaces.cgroup,
            "failCgroupV1": False,
            "failSwapOn": False,
            "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
            "authorization": {"mode": "AlwaysAllow"},
            "clusterDNS": [self.address],
            "clusterDomain": DOMAIN,
            "evictionHard": {"memory.available": "1%", "nodefs.available": "1%", "imagefs.available": "1%"},
            "imageGCHighThresholdPercent": 100,
            "volumePluginDir": str(self._file("plugins")),
            "nodeStatusUpdateFrequency": "5s",
        }

    def _proxy_settings(self, api: ControlPlane) -> Json:
        return {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "clientConnection": {"kubeconfig": str(api.kubeconfig)},
            "mode": "iptables",
            "hostnameOverride": self.name,
            "clusterCIDR": "10.244.0.0/16",
            # The table of connections is the whole machine's: its size is not for a test to change.
            "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        }


def _container(mounts: Sequence[Path]) -> Json:
    """What every container of the node begins with: containerd's own default, and folders of this machine."""
    done = subprocess.run(["ctr", "oci", "spec"], capture_output=True, text=True, check=True)
    spec: Json = json.loads(done.stdout)
    spec["mounts"] += [
        {"destination": str(path), "type": "bind", "source": str(path), "options": ["rbind", "ro", "rprivate"]}
        for path in mounts
    ]
    return spec


# Lowering oom_score_adj is denied on some machines, and runc then says "can't get final child's PID from pipe: EOF".
_CONTAINERD = """version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{sandbox}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{cni}"
    conf_dir = "{folder}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    base_runtime_spec = "{folder}/container.json"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      BinaryName = "{folder}/runc"
"""

# containerd puts what every container begins with before the volumes of the pod: one at /tmp would hide a checkout below it.
_RUNC = """#!{python} -IS
import json, os, sys
if "create" in sys.argv:
    path = os.path.join(sys.argv[sys.argv.index("--bundle") + 1], "config.json")
    with open(path) as file:
        spec = json.load(file)
    spec["mounts"].sort(key=lambda mount: mount["destination"].count("/"))
    with open(path, "w") as file:
        json.dump(spec, file)
os.execv("{runc}", ["runc", *sys.argv[1:]])
"""

_COREFILE = """.:53 {{
    errors
    kubernetes {domain} {{
        kubeconfig {kubeconfig} test
        ttl 1
    }}
}}
"""
