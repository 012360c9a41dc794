"""The README of the chart: what people need first, then every value in one table."""

from collections.abc import Iterable
from typing import NamedTuple

_HEAD = """\
<!-- Made by `make crds` from operator/autoglm_operator/chart. Do not edit. -->

# Helm chart autoglm

Installs the custom resource definitions, the operator (two processes, one of which leads) and a gateway that scales.

```
helm dependency build charts/autoglm        # once in a checkout: fetches the chart of KubeRay, which stays off by default
helm install autoglm charts/autoglm --namespace autoglm-system --create-namespace
helm test autoglm --namespace autoglm-system
```

Then make a site (`examples/site-ray.yaml`), let the operator read its token, and apply a deployment:

```
helm upgrade autoglm charts/autoglm --namespace autoglm-system --reuse-values \\
  --set 'operator.siteSecrets[0].namespace=autoglm-system,operator.siteSecrets[0].names={ray-token}'
```

Without access to the chart of KubeRay, `scripts/chart-without-kuberay.sh FOLDER` writes a copy that does not need it.

## Upgrade
`helm upgrade` upgrades the custom resource definitions too: they are templates of the chart, not files in `crds/`, which Helm
never upgrades. They stay when the release is uninstalled (`crds.keep`), and with them every deployment and site. A definition
that is there already, from `kubectl apply -f crds/` or an earlier release, is taken over with `--take-ownership`. To upgrade
the definitions by themselves, set `crds.install=false` and use `kubectl apply --server-side -f crds/`.

## Uninstall
Delete the deployments first (`kubectl delete agd --all -A`): the operator takes their applications from the sites. After
`helm uninstall` nothing is left but the definitions; `kubectl delete crd autoglmdeployments.serving.autoglm.dev
autoglmsites.serving.autoglm.dev` takes those away.

## Security
All pods run under the Pod Security Standard "restricted": no root, no capabilities, a read-only file system. The operator reads
only the Secrets that are named in `operator.siteSecrets`, lists none, and makes pods, roles or bindings nowhere. The gateway's
account has no rights and no token. With `networkPolicy.monitoring` set, only the operator and those peers reach the gateway's
admin port.

## Values
| Value | Default | What it is for |
| --- | --- | --- |
"""


class Row(NamedTuple):
    """One value."""

    name: str
    default: str
    text: str


def page(rows: Iterable[Row]) -> str:
    """The page in Markdown."""
    return _HEAD + "".join(f"| `{row.name}` | `{row.default}` | {_cell(row.text)} |\n" for row in rows)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
