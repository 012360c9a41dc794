"""The chart on a cluster with KubeRay, and a site there: what a platform team does by hand, with the same commands."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.helm import Helm
from support.kubernetes import ROOT, binary
from support.node.cluster import Running, image
from support.pictures import data_url
from support.ports import free_port
from support.processes import Process, wait_until
from support.whole_path import SCREENSHOT, post_chat

Json = dict[str, Any]

_CRDS = ("autoglmdeployments.serving.autoglm.dev", "autoglmsites.serving.autoglm.dev")
SYSTEM, RAY, USERS = "autoglm-system", "autoglm-ray", "autoglm-users"
NAMESPACES = (SYSTEM, RAY, USERS)
RELEASE = "autoglm"
SITE = "node"
# Starting Ray and an engine on a machine where ten other things run.
READY_S = 900.0
MARGIN_S = 60.0
WAIT = ("--wait", "--timeout", f"{READY_S:.0f}s")
"""Helm's own patience; it says more than a process that is ended from outside."""
_NOISE = ("events", "events.events.k8s.io", "endpoints", "componentstatuses")
"""What Kubernetes itself leaves for a while, or derives from something that is listed."""


class Release:
    """One release of the chart on a cluster, the only one there."""

    def __init__(self, running: Running, helm: Helm, directory: Path) -> None:
        self.api = running.api
        self.nodes = running.nodes
        self._tell = running.tell
        self._helm = helm
        self._directory = directory

    def prepare(self) -> None:
        """Make the namespaces. What the chart and KubeRay's pods promise about security is enforced there."""
        if self.is_installed():
            pytest.fail("AutoGLM is installed on this cluster already, and the run would take it away: use another one")
        for name in NAMESPACES:
            self.api.kubectl("create", "namespace", name)
        self.api.kubectl("label", "namespace", RAY, SYSTEM, "pod-security.kubernetes.io/enforce=restricted")

    # The release

    def helm(self, *arguments: str | Path, values: Json | None = None) -> str:
        """Run helm in the namespace of the release."""
        where = ("--namespace", SYSTEM)
        return self._helm.run(
            *arguments, *where, kubeconfig=self.api.kubeconfig, values=values, timeout=READY_S + MARGIN_S
        )

    def install(self, values: Json | None = None) -> None:
        """`helm upgrade --install`; returns when every pod of the chart is ready."""
        whole = _merged(_values(), values or {})
        try:
            self.helm("upgrade", "--install", RELEASE, self._helm.chart, "--create-namespace", *WAIT, values=whole)
        except RuntimeError as error:
            raise AssertionError(f"{error}\n{self.state()}") from None

    def is_installed(self) -> bool:
        """Whether the definitions are there: this cluster, or what is left of a run, is somebody's."""
        return bool(self.api.kubectl("get", "crd", *_CRDS, "--ignore-not-found", "-o", "name").strip())

    def uninstall(self) -> None:
        """Takes everything away, the definitions and so every deployment and site too."""
        for kind in ("agd", "ags") if self.is_installed() else ():
            self.api.kubectl("delete", kind, "--all", "-A", "--timeout=120s", check=False, timeout=180)
        self.helm("uninstall", RELEASE, "--ignore-not-found")
        for name in NAMESPACES:
            self.api.kubectl(
                "delete", "namespace", name, "--ignore-not-found", "--timeout=120s", check=False, timeout=180
            )
        self.api.kubectl("delete", "crd", *_CRDS, "--ignore-not-found")

    # Objects

    def apply_site(self, tier: str = "cloud", **changes: Any) -> None:
        """The site of examples/site-kuberay.yaml, for a small node without accelerators. `changes` are to its back end."""
        site = yaml.safe_load((ROOT / "examples/site-kuberay.yaml").read_text())
        site["metadata"]["name"] = SITE
        kube = site["spec"]["backend"]["kubeRay"]
        for field in ("nodeSelector", "tolerations", "topologySpread"):
            del kube[field]
        kube |= {
            "namespace": RAY,
            "image": os.environ.get("AUTOGLM_E2E_SERVING_IMAGE", image("serving")),
            "head": {"cpu": "200m", "memory": "2Gi"},
            **changes,
        }
        site["spec"]["tier"] = tier
        self.api.apply(site)

    def apply_quickstart(self, **changes: Any) -> None:
        """The deployment of examples/quickstart.yaml, small."""
        made = yaml.safe_load((ROOT / "examples/quickstart.yaml").read_text())
        made["metadata"]["namespace"] = USERS
        made["spec"]["sites"] = {"names": [SITE]}
        made["spec"]["worker"]["resources"] = {"cpu": "400m", "memory": "3Gi"}
        made["spec"] |= changes
        self.api.apply(made)

    def autoglm(self, *arguments: str) -> str:
        """`kubectl autoglm` in the users' namespace."""
        command = [str(Path(sys.executable).parent / "kubectl-autoglm"), "-n", USERS, *arguments]
        env = {**os.environ, "KUBECONFIG": str(self.api.kubeconfig)}
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=env, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    # Looking

    def deployment(self) -> Json:
        """The deployment as it is stored."""
        return self.api.get("agd", "quickstart", USERS)

    def is_ready(self) -> bool:
        """Whether it is Ready for its present generation."""
        found = self.deployment()
        return any(
            (one["type"], one["status"], one.get("observedGeneration"))
            == ("Ready", "True", found["metadata"]["generation"])
            for one in (found.get("status") or {}).get("conditions") or ()
        )

    def ready_since(self) -> str:
        """Since when the condition Ready is what it is."""
        conditions = self.deployment()["status"]["conditions"]
        return str(next(one["lastTransitionTime"] for one in conditions if one["type"] == "Ready"))

    def wait_ready(self) -> None:
        """Wait until the present spec is Ready."""
        self.wait(self.is_ready, "quickstart is Ready")

    def names(self, kind: str, namespace: str = RAY) -> list[str]:
        """Names of the objects of a kind."""
        return self.api.kubectl("get", kind, "-n", namespace, "-o", _NAMES, "--no-headers").split()

    def everything(self) -> set[str]:
        """Every object of the cluster that is ours by its namespace, kind or name."""
        found = set()
        for scope in ("--namespaced=true", "--namespaced=false"):
            kinds = self.api.kubectl("api-resources", scope, "--verbs=list", "--cached=false", "-o", "name").split()
            listed = ",".join(kind for kind in kinds if kind not in _NOISE)
            found |= set(self.api.kubectl("get", listed, "-A", "--no-headers", "-o", _OBJECTS).splitlines())
        lines = (" ".join(line.split()) for line in found)
        return {line for line in lines if "autoglm" in line.lower()}

    def wait(self, condition: Callable[[], bool], what: str, timeout: float = READY_S) -> None:
        """Wait for a condition; a failure tells all that a person would look at."""
        try:
            wait_until(condition, what, timeout, poll=_PAUSE_S)
        except AssertionError as error:
            there = "\n".join(sorted(self.everything()))
            raise AssertionError(f"{error}\n{there}\n{self.state()}") from None

    def state(self) -> str:
        """Statuses, events and the ends of logs."""
        parts = [self._show("get", "pods", "-A", "-o", "wide")]
        parts.append(self._show("get", "agd,ags", "-A", "-o", "yaml"))
        for namespace in NAMESPACES:
            parts.append(self._show("get", "events", "-n", namespace, "--sort-by=.lastTimestamp")[-4000:])
            pods = self._show("get", "pods", "-n", namespace, "-o", "name").split()
            logs = ("logs", "-n", namespace, "--all-containers", "--prefix", "--tail=12")
            parts += [self._show(*logs, pod) for pod in pods]
        return "\n---\n".join([*parts, self._tell()])

    def _show(self, *arguments: str) -> str:
        return self.api.kubectl(*arguments, check=False)

    # Asking

    @contextmanager
    def gateway(self) -> Iterator[str]:
        """Address of the gateway, by `kubectl port-forward`."""
        port = free_port()
        command = [binary("kubectl"), "port-forward", "-n", SYSTEM, "service/autoglm-gateway", f"{port}:80"]
        log = self._directory / f"port-forward-{port}.log"
        env = {"KUBECONFIG": str(self.api.kubeconfig)}
        with Process("port-forward", command, log=log, env=env) as process:
            process.wait_for(lambda: "Forwarding" in process.log_text(), "it forwards")
            yield f"http://127.0.0.1:{port}"

    def ask(self, body: Json) -> tuple[Json, dict[str, str]]:
        """The answer to a chat request, and its headers in lower case."""
        with self.gateway() as url:
            status, headers, content = post_chat(url, body, READY_S)
            assert status == 200, f"{status}: {content.decode()}\n{self.state()}"
            return json.loads(content), headers


def screenshot() -> Json:
    """A chat request with a picture."""
    image = {"type": "image_url", "image_url": {"url": data_url(SCREENSHOT.read_bytes())}}
    parts = [image, {"type": "text", "text": "打开设置"}]
    return {"model": "autoglm-phone-9b", "messages": [{"role": "user", "content": parts}], "max_tokens": 8}


class Watch:
    """Prints what each stage of a long test took."""

    def __init__(self) -> None:
        self._begun = time.monotonic()

    def stage(self, name: str) -> None:
        """A stage has ended."""
        now = time.monotonic()
        print(f"{now - self._begun:6.1f} s  {name}", flush=True)
        self._begun = now


# Each look is a kubectl, which takes a good part of a second of a small machine.
_PAUSE_S = 1.0
_NAMES = "custom-columns=N:.metadata.name"
_OBJECTS = "custom-columns=V:.apiVersion,K:.kind,S:.metadata.namespace,N:.metadata.name"


def _values() -> Json:
    """Small enough for a node with two cores; on another cluster the images are what AUTOGLM_E2E_VALUES (a file) says."""
    requests = {"requests": {"cpu": "50m", "memory": "128Mi"}}
    values: Json = {
        "operator": {"kubeRay": {"namespaces": [RAY]}, "resources": requests},
        "gateway": {"autoscaling": {"enabled": False}, "replicas": 1, "resources": requests},
    }
    given = os.environ.get("AUTOGLM_E2E_VALUES")
    return _merged(values, yaml.safe_load(Path(given).read_text()) or {}) if given else values


def _merged(base: Json, over: Json) -> Json:
    both = {key: _merged(base[key], over[key]) for key in base.keys() & over.keys() if isinstance(base[key], dict)}
    return {**base, **over, **both}
