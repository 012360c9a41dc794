"""From a model URI to a folder on this machine."""

import fcntl
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from urllib.parse import unquote, urlsplit

from autoglm_serving.model import tiny, tiny_tokenizer, vocabulary
from autoglm_serving.model.errors import ModelNotFound

BUILTIN_TINY = "builtin://autoglm-tiny"
BUILTIN_GROUNDED = "builtin://autoglm-tiny-grounded"
SCHEMES = (
    BUILTIN_TINY,
    BUILTIN_GROUNDED,
    "file:///absolute/path",
    "hf://organisation/name[@revision]",
)

GROUNDED = Path(__file__).parent / "grounded"
"""AutoGLM-Tiny after its grounding: a checkpoint that comes with this package. docs/results says how good it is."""

TRAINED_SIDE = 448
"""Short side in pixels of the largest screens that it learned from."""

_UNFINISHED = ".unfinished-"
_HF_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_HF_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]


def locate(uri: str, cache: Path | None = None) -> Path:
    """The folder of `uri`, made or downloaded at need. Raises ModelNotFound with the reason."""
    scheme, separator, rest = uri.partition("://")
    if separator and scheme == "builtin":
        return _builtin(rest, cache or default_cache())
    if separator and scheme == "file":
        return _local(uri)
    if separator and scheme == "hf":
        return _hugging_face(rest)
    raise ModelNotFound(f"the model URI {uri!r} is not one of: {', '.join(SCHEMES)}")


def default_cache() -> Path:
    """AUTOGLM_CACHE, or the user's cache folder."""
    if chosen := os.environ.get("AUTOGLM_CACHE"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "autoglm"


def _local(uri: str) -> Path:
    parts = urlsplit(uri)
    if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
        raise ModelNotFound(f"{uri!r} needs an absolute path: file:///absolute/path")
    path = Path(unquote(parts.path))
    if not path.is_dir():
        raise ModelNotFound(f"{path} is not a folder on this machine")
    return path


def _builtin(name: str, cache: Path) -> Path:
    if name == "autoglm-tiny-grounded":
        return GROUNDED
    if name != "autoglm-tiny":
        raise ModelNotFound(f"there is no built-in model {name!r}, only {BUILTIN_TINY} and {BUILTIN_GROUNDED}")
    models = cache / "models"
    folder = models / f"autoglm-tiny-{_tiny_fingerprint()}"
    if folder.is_dir():
        return folder
    models.mkdir(parents=True, exist_ok=True)
    with _locked(models / ".autoglm-tiny.lock"):
        for left_over in models.glob(f"{_UNFINISHED}*"):
            shutil.rmtree(left_over, ignore_errors=True)
        if not folder.is_dir():
            _build_beside(folder)
    return folder


def _build_beside(folder: Path) -> None:
    """Build in a temporary folder and rename it, so that nobody ever sees half a model."""
    unfinished = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=folder.parent))
    try:
        tiny.build(unfinished)
        unfinished.chmod(0o755)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _tiny_fingerprint() -> str:
    """Changes with the recipe and with the libraries that draw the weights: an old cache is never taken for the new model."""
    digest = hashlib.sha256()
    for module in (tiny, tiny_tokenizer, vocabulary):
        digest.update(Path(str(module.__file__)).read_bytes())
    for library in ("torch", "transformers", "tokenizers"):
        digest.update(version(library).encode())
    return digest.hexdigest()[:12]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _hugging_face(rest: str) -> Path:
    name, _, revision = rest.partition("@")
    if not _HF_NAME.fullmatch(name):
        raise ModelNotFound(f"'hf://{rest}' is not of the form hf://organisation/name[@revision]")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=_HF_FILES))
    except GatedRepoError as error:
        raise ModelNotFound(f"Hugging Face asks for permission to read {name}: set HF_TOKEN") from error
    except RevisionNotFoundError as error:
        raise ModelNotFound(f"Hugging Face has no revision {revision!r} of {name}") from error
    except RepositoryNotFoundError as error:
        raise ModelNotFound(f"Hugging Face has no model {name}, or it is private (set HF_TOKEN)") from error
    except Exception as error:  # the client raises errors of its own, of httpx and of the file system
        kind = type(error).__name__
        raise ModelNotFound(
            f"Hugging Face could not be reached for {name} ({kind}), and it is not in the cache"
        ) from error
