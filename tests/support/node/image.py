"""Images for a test's node, of a few kilobytes each: this machine's own programs and the checkout stand in for their content.

Building the shipped images takes a registry and gigabytes (torch). What they say about how a container starts is read from
their Dockerfiles: user, variables, entry point. What they hold is mounted read-only into every container of the node.
"""

import hashlib
import io
import json
import platform
import shlex
import sys
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.kubernetes import ROOT

Json = dict[str, Any]

USER = 65532
HOME = "/home/autoglm"
ENVIRONMENT = "/opt/autoglm"
"""Where the Dockerfiles put the Python environment."""
DOCKERFILES = ("operator", "gateway", "serving")
_LOGIN = "export PATH=/opt/autoglm/bin:$PATH"
# On a busy machine a Ray node does not register in the 30 seconds that Ray has for it, and ends.
_RAY = """#!/opt/autoglm/bin/python
from ray._private import services
from ray.scripts.scripts import main

from autoglm_operator.local.patient_ray import agent_port_told, patient

start = services.start_ray_process
services.get_node = patient(services.get_node)
services.start_ray_process = lambda command, *args, **options: start(agent_port_told(command), *args, **options)
main()
"""
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@dataclass
class Image:
    """How containers of an image start."""

    name: str
    env: dict[str, str] = field(default_factory=dict)
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    folder: str = "/"
    links: dict[str, str] = field(default_factory=dict)
    """Links in it to paths of this machine, which must be among the mounts."""
    programs: dict[str, bytes] = field(default_factory=dict)
    """Programs in it, by path."""


def mounts(*more: Path) -> list[Path]:
    """Folders of this machine that stand for the content of the images: programs and libraries, Python, the checkout."""
    return [Path("/usr"), Path("/etc/ssl"), Path(sys.base_prefix), ROOT, *more]


def shipped(component: str, name: str) -> Image:
    """What the last stage of a shipped Dockerfile says."""
    text = (ROOT / f"docker/{component}.Dockerfile").read_text().replace("\\\n", " ")
    assert component != "serving" or _LOGIN in text, "the login shell of the test's image is not the shipped one"
    image = Image(name)
    for line in text.rpartition("\nFROM ")[2].splitlines():
        word, _, rest = line.partition(" ")
        if word == "ENV":
            image.env |= dict(pair.split("=", 1) for pair in shlex.split(rest))
        elif word == "USER":
            assert rest == f"{USER}:{USER}", rest
        elif word == "ENTRYPOINT":
            image.entrypoint = json.loads(rest)
        elif word == "CMD":
            image.command = json.loads(rest)
        elif word == "WORKDIR":
            image.folder = rest
    if component == "serving":
        image.programs["/patient/ray"] = _RAY.encode()
        image.env["PATH"] = f"/patient:{image.env['PATH']}"
    return image


def pause(name: str, program: Path) -> Image:
    """What holds the namespaces of a pod."""
    return Image(name, entrypoint=["/pause"], programs={"/pause": program.read_bytes()})


def archive(images: list[Image], path: Path) -> None:
    """Write the images as one OCI archive, as `ctr images import` reads it."""
    with tarfile.open(path, "w") as tar:
        store = _Store(tar)
        manifests = [_manifest(store, store.blob(_layer(image), _LAYER), image) for image in images]
        _add(tar, "oci-layout", _dump({"imageLayoutVersion": "1.0.0"}))
        _add(tar, "index.json", _dump({"schemaVersion": 2, "manifests": manifests}))


class _Store:
    """The content-addressed files of an archive."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar
        self._known: set[str] = set()

    def blob(self, data: bytes, media_type: str) -> Json:
        digest = hashlib.sha256(data).hexdigest()
        if digest not in self._known:
            self._known.add(digest)
            _add(self._tar, f"blobs/sha256/{digest}", data)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}


def _manifest(store: _Store, layer: Json, image: Image) -> Json:
    config = {
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()],
        "os": "linux",
        "config": {
            "User": f"{USER}:{USER}",
            "Env": [f"{name}={value}" for name, value in image.env.items()],
            "Entrypoint": image.entrypoint or None,
            "Cmd": image.command or None,
            "WorkingDir": image.folder,
        },
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
    }
    manifest = {"schemaVersion": 2, "config": store.blob(_dump(config), _CONFIG), "layers": [layer]}
    reference = {"org.opencontainers.image.ref.name": image.name, "io.containerd.image.name": image.name}
    return {**store.blob(_dump(manifest), _MANIFEST), "annotations": reference}


def _layer(image: Image) -> bytes:
    """Folders, links and the few files of /etc; programs come by mounts."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for folder in ("etc", "etc/profile.d", "proc", "sys", "dev", "run", "var", "opt", "home", "root"):
            _folder(tar, folder)
        for folder in ("tmp", "var/tmp"):
            _folder(tar, folder, mode=0o1777)
        _folder(tar, HOME[1:], owner=USER)
        for name in ("bin", "sbin", "lib", "lib64"):
            _link(tar, name, f"usr/{name}")
        for name, target in ({ENVIRONMENT: str(ROOT / ".venv")} | image.links).items():
            _link(tar, name[1:], target)
        for name, content in image.programs.items():
            _add(tar, name[1:], content, mode=0o755)
        _add(tar, "etc/passwd", f"root:x:0:0::/root:/bin/bash\nautoglm:x:{USER}:{USER}::{HOME}:/bin/bash\n".encode())
        _add(tar, "etc/group", f"root:x:0:\nautoglm:x:{USER}:\n".encode())
        _add(tar, "etc/profile", Path("/etc/profile").read_bytes())
        _add(tar, "etc/profile.d/autoglm.sh", f"{_LOGIN}\n".encode())
    return buffer.getvalue()


def _folder(tar: tarfile.TarFile, name: str, *, mode: int = 0o755, owner: int = 0) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.uid, entry.gid = tarfile.DIRTYPE, mode, owner, owner
    tar.addfile(entry)


def _link(tar: tarfile.TarFile, name: str, target: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = tarfile.SYMTYPE, target
    tar.addfile(entry)


def _add(tar: tarfile.TarFile, name: str, data: bytes, *, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), mode
    tar.addfile(entry, io.BytesIO(data))


def _dump(document: Json) -> bytes:
    return json.dumps(document, sort_keys=True).encode()
