"""Which variant of its model a deployment runs at a site, why, and what gateways are told about all of them."""

from dataclasses import dataclass

from autoglm_operator.api import AutoGLMSite, ModelSpec, ModelVariant, TasksSolved, VariantSites
from autoglm_serving import routing_table
from autoglm_serving.config import BASE, AppConfig, EngineName
from autoglm_serving.routing_table import VariantPolicy

_OPTIONS: dict[EngineName, str] = {"transformers": "variant", "vllm": "quantization"}
"""The option by which each engine is told how weights are quantised."""


@dataclass(frozen=True)
class Choice:
    """The variant that a site shall run, None for the model itself, and why."""

    variant: ModelVariant | None
    why: str

    @property
    def name(self) -> str:
        """What statuses and answers call it."""
        return BASE if self.variant is None else self.variant.name


def choose(model: ModelSpec, site: AutoGLMSite) -> Choice | None:
    """The first variant that is for the site and may serve, else the model itself; None where a deployment has none."""
    policy = policy_of(model)
    if policy is None:
        return None
    left_out: list[str] = []
    for variant in model.variants or ():
        if not _is_for(variant.sites, site):
            continue
        why_not = policy.shortfall(variant.name)
        if not why_not:
            return Choice(variant, "; ".join([f"{variant.name} is for this site", *left_out]))
        left_out.append(f"{variant.name} is left out: {why_not}")
    return Choice(None, "; ".join(left_out or ["no variant is for this site"]))


def applied(config: AppConfig, choice: Choice | None) -> AppConfig:
    """The arguments of the application at a site that runs a variant. The revision in them is that of the model itself."""
    variant = choice.variant if choice is not None else None
    if variant is None:
        return config
    model = config.model.model_copy(update={"variant": variant.name, "uri": variant.uri or config.model.uri})
    engine = config.engine
    if variant.quantization is not None:
        options = {**engine.options, _OPTIONS[engine.name]: variant.quantization}
        engine = engine.model_copy(update={"options": dict(sorted(options.items()))})
    return config.model_copy(update={"model": model, "engine": engine})


def policy_of(model: ModelSpec) -> VariantPolicy | None:
    """What gateways are told: what each variant solves, and the floor; None where a deployment has none."""
    if model.variants is None:
        return None
    return VariantPolicy(
        base=_solved(model.quality),
        variants=tuple(
            routing_table.Variant(name=variant.name, quality=_solved(variant.quality)) for variant in model.variants
        ),
        floor=model.quality_floor,
    )


def _solved(measured: TasksSolved | None) -> routing_table.TasksSolved | None:
    return None if measured is None else routing_table.TasksSolved(right=measured.right, samples=measured.samples)


def _is_for(sites: VariantSites, site: AutoGLMSite) -> bool:
    if sites.names is not None:
        return site.metadata.name in sites.names
    wanted = sites.selector.match_labels if sites.selector is not None else {}
    return all(site.metadata.labels.get(key) == value for key, value in wanted.items())
