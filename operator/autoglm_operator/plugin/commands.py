"""`kubectl autoglm`: status, explain, top, rollout and logs, read from a cluster."""

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from typing_extensions import override

from autoglm_operator.local import show
from autoglm_operator.local.commands import EVENTS_SHOWN, SHORT_KINDS, output_option
from autoglm_operator.plugin import logs as logs_of
from autoglm_operator.plugin import requests, rollouts, traffic
from autoglm_operator.plugin.cluster import Cluster, ClusterFailed, Target
from autoglm_operator.plugin.logs import Wish
from autoglm_operator.plugin.tree import tree
from autoglm_operator.store import DEPLOYMENT, SITE, JsonObject, ObjectKey

ADMIN_PORT = 9901
NAME = click.argument("name", metavar="NAME|agd/NAME")


def _remember(ctx: click.Context, option: click.Parameter, value: str | None) -> None:
    """Keep what is said about the cluster, wherever it is said; the innermost place counts."""
    if value is not None:
        ctx.meta[f"{__name__}.{option.name}"] = value


def _where() -> list[click.Parameter]:
    """Which cluster and namespace. kubectl's own commands take these options before and after the verb."""
    texts = {("--kubeconfig",): "FILE", ("--context",): "NAME", ("-n", "--namespace"): "NAME"}
    return [
        click.Option(flags, metavar=metavar, help="As kubectl's.", expose_value=False, callback=_remember)
        for flags, metavar in texts.items()
    ]


class Located(click.Command):
    """A command that takes the options of `_where`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """As every command's."""
        super().__init__(*args, **kwargs)
        self.params += _where()


class Plain(Located, click.Group):
    """Tells what went wrong in a sentence, without a trace."""

    command_class = Located

    @override
    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except (ClusterFailed, rollouts.NothingToDo) as error:
            raise click.ClickException(str(error)) from None


@click.group(cls=Plain, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Look at AutoGLM deployments of a cluster, and steer their rollouts."""


def _cluster() -> Cluster:
    meta = click.get_current_context().meta
    return Cluster(Target(*(meta.get(f"{__name__}.{name}") for name in ("kubeconfig", "context", "namespace"))))


@main.command()
@click.argument("name", required=False, metavar="[NAME|agd/NAME]")
@click.option("-A", "--all-namespaces", is_flag=True, help="Deployments of all namespaces.")
@output_option
def status(name: str | None, all_namespaces: bool, output: str) -> None:
    """Show deployments and sites, or one deployment as a tree."""
    cluster, now = _cluster(), datetime.now(UTC)
    sites = cluster.objects(SITE)
    if name is not None:
        found = cluster.object(DEPLOYMENT, _plain(name))
        click.echo(_json(found) if output == "json" else tree(found, sites, now))
        return
    deployments = cluster.objects(DEPLOYMENT, None if all_namespaces else cluster.namespace)
    if output == "json":
        click.echo(_json({"items": [*deployments, *sites]}))
        return
    objects = {ObjectKey.of(raw["kind"], raw): raw for raw in (*deployments, *sites)}
    where = "in any namespace" if all_namespaces else f"in namespace {cluster.namespace}"
    shown = show.deployments(objects, now) if deployments else f"no AutoGLMDeployment {where}"
    click.echo(shown + "\n\n" + (show.sites(objects, now) if sites else "no AutoGLMSite"))


@main.command()
@click.argument("what", metavar="agd/NAME|ags/NAME|REQUEST-ID")
@click.option(
    "--gateway-token-file",
    "token_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="For a request: the gateways' token, shown to gateway pods of the namespace (-n) alone. Default: the Secret that"
    " each gateway's pod mounts, in any namespace.",
)
@output_option
def explain(what: str, token_file: Path | None, output: str) -> None:
    """Say why a deployment or site is as it is, or where a request went (REQUEST-ID: the answer's header x-request-id)."""
    short, slash, name = what.partition("/")
    if not slash:
        _explain_request(what, None if token_file is None else token_file.read_text().strip(), output)
        return
    kind = SHORT_KINDS.get(short.lower()) or SHORT_KINDS.get(short.lower().removesuffix("s"))
    if kind is None:
        raise click.UsageError(f"{what!r} is neither agd/NAME nor ags/NAME nor the id of a request")
    cluster = _cluster()
    found = cluster.object(kind, name)
    events = [_event(event) for event in cluster.events(found)][-EVENTS_SHOWN:]
    if output == "json":
        click.echo(_json({"object": found, "events": events}))
    else:
        click.echo(show.explain(found, events, datetime.now(UTC)))


def _explain_request(request_id: str, token: str | None, output: str) -> None:
    """What the gateway that had a request decided about it. Whichever gateway it was: all are asked."""
    cluster = _cluster()
    pods = _gateways(cluster, None if token is None else cluster.namespace)
    found = requests.find(cluster, pods, ADMIN_PORT, request_id, token)
    if found.record is None:
        said = "; ".join(f"{name}: {text}" for name, text in found.silent.items())
        raise click.ClickException(
            f"no gateway tells of request {request_id} (each keeps its last 1000, until it restarts): {said}"
        )
    if output == "json":
        click.echo(_json({"gateway": found.gateway, "record": found.record}))
    else:
        click.echo(f"gateway {found.gateway}\n" + show.decision(found.record))


def _gateways(cluster: Cluster, namespace: str | None = None) -> list[JsonObject]:
    """The chart's gateway pods that have an address. Whoever may make pods in a namespace may call one a gateway."""
    found = cluster.pods(f"{logs_of.PART}=gateway", namespace)
    pods = [pod for pod in found if (pod.get("status") or {}).get("podIP")]
    if not pods:
        where = f"namespace {namespace}: choose that of the gateways with -n" if namespace else "this cluster"
        raise click.ClickException(f"no gateway of the chart runs in {where}")
    return pods


def _event(event: JsonObject) -> dict[str, str]:
    when = event.get("lastTimestamp") or event.get("eventTime") or event["metadata"]["creationTimestamp"]
    return {"time": when, "type": event["type"], "reason": event["reason"], "message": event["message"]}


@main.command()
@click.option("--seconds", type=click.FloatRange(0.1, 300), default=3.0, show_default=True, help="Time to measure.")
def top(seconds: float) -> None:
    """Show what the gateways are doing now: requests, failures and times of each deployment."""
    cluster = _cluster()
    pods = _gateways(cluster)
    started = time.monotonic()
    before = [_read(cluster, pod) for pod in pods]
    time.sleep(seconds)
    after = [_read(cluster, pod) for pod in pods]
    samples = [traffic.Sample(*pair) for pair in zip(before, after, strict=True)]
    click.echo(traffic.top(samples, time.monotonic() - started))


def _read(cluster: Cluster, pod: JsonObject) -> traffic.Reading:
    try:
        return traffic.parse(cluster.fetch(pod, ADMIN_PORT, "/metrics"))
    except ClusterFailed as error:
        click.echo(f"{pod['metadata']['name']}: {error}", err=True)
        return {}


@main.command()
@click.argument("what", metavar="agd/NAME|operator|gateway")
@click.option("--site", "sites", multiple=True, help="Only from this site; may be repeated.")
@click.option("--tail", type=click.IntRange(1, 10_000), default=50, show_default=True, help="Lines of each log.")
@click.option("--since", type=click.IntRange(1), help="Seconds; for pods alone.")
def logs(what: str, sites: tuple[str, ...], tail: int, since: int | None) -> None:
    """Show the ends of logs, each line after its source: of a deployment's replicas at all its sites, or of a component."""
    cluster, wish = _cluster(), Wish(tail, since, sites)
    if what in ("operator", "gateway"):
        pieces = logs_of.of_component(cluster, what, wish)
    else:
        deployment = cluster.object(DEPLOYMENT, _plain(what))
        known = {site["metadata"]["name"]: site for site in cluster.objects(SITE)}
        pieces = logs_of.of_deployment(cluster, deployment, known, wish)
    shown = False
    for piece in pieces:
        shown = True
        for line in piece.lines():
            click.echo(line)
    if not shown:
        raise click.ClickException(f"there is nothing to show of {what}")


@main.group(cls=Plain)
def rollout() -> None:
    """Look at a rollout in steps, and steer it. Every verb writes an annotation or a field that the operator reads."""


@rollout.command("status")
@NAME
def rollout_status(name: str) -> None:
    """Show steps, gates, traffic, revisions and decisions."""
    click.echo(rollouts.status(_cluster().object(DEPLOYMENT, _plain(name)), datetime.now(UTC)))


@rollout.command()
@NAME
def pause(name: str) -> None:
    """Stop a rollout in steps where it is. Nothing else acts until `resume`, an abort neither."""
    _change(name, rollouts.pause, "the rollout is paused", at_once=True)


@rollout.command()
@NAME
def resume(name: str) -> None:
    """Go on after a pause."""
    _change(name, rollouts.resume, "the rollout goes on", at_once=True)


@rollout.command()
@NAME
def promote(name: str) -> None:
    """Let the new revision take over now, without the remaining steps."""
    _change(name, rollouts.promote, "the new revision takes over")


@rollout.command()
@NAME
def approve(name: str) -> None:
    """Let the present step end, where it waits for approval."""
    _change(name, rollouts.approve, "the step is approved")


@rollout.command()
@NAME
def abort(name: str) -> None:
    """Take the new revision back."""
    _change(name, rollouts.abort, "the new revision is taken back")


@rollout.command()
@NAME
def retry(name: str) -> None:
    """Try a revision again that was taken back."""
    now = datetime.now(UTC)
    _change(name, lambda raw: rollouts.retry(raw, now), "the revision is tried again")


@rollout.command()
@NAME
@click.option("--to", "revision", metavar="REVISION", help="Default: the newest one that was retired.")
@click.option("--undo", is_flag=True, help="Follow the spec again.")
def rollback(name: str, revision: str | None, undo: bool) -> None:
    """Let an earlier revision serve instead of the one that the spec describes."""
    if undo and revision is not None:
        raise click.UsageError("give either --to or --undo")
    if undo:
        _change(name, rollouts.follow, "the revision of the spec takes over")
    else:
        _change(name, lambda raw: rollouts.rollback(raw, revision), "an earlier revision takes over")


def _change(name: str, patch: Callable[[JsonObject], rollouts.Patch], told: str, *, at_once: bool = False) -> None:
    """Write a patch and tell what happens: `at_once`, or when the rollout is not paused any more."""
    cluster = _cluster()
    plain = _plain(name)
    found = cluster.object(DEPLOYMENT, plain)
    cluster.patch(DEPLOYMENT, plain, patch(found))
    click.echo(f"{cluster.namespace}/{plain}: {told}{'' if at_once else rollouts.waits(found)}")


def _plain(name: str) -> str:
    """NAME of "agd/NAME" or "NAME"."""
    kind, slash, rest = name.rpartition("/")
    if slash and SHORT_KINDS.get(kind.lower().removesuffix("s")) != DEPLOYMENT:
        raise click.UsageError(f"{name!r} is not a deployment: give NAME or agd/NAME")
    return rest


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


if __name__ == "__main__":
    main()
