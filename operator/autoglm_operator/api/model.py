"""The model that a deployment serves, its variants, and which sites run which of them."""

from typing import Annotated, Final

from pydantic import Field

from autoglm_operator.api.base import Check, Model, Rule, Unique
from autoglm_operator.api.selector import SiteSelector
from autoglm_operator.api.text import DnsLabel, ModelName, ModelUri

TRANSFORMERS_QUANTIZATIONS: Final = ("int8-dynamic", "int8-weight", "int4-weight")

_QUANTIZATION = Check(
    "self.matches('^[a-z0-9_-]{1,32}$')",
    lambda text: 0 < len(text) <= 32 and all(c in "abcdefghijklmnopqrstuvwxyz0123456789_-" for c in text),
    "must be the name of a quantization such as int8-weight: at most 32 of a-z, 0-9, _ and -",
    "^[a-z0-9_-]{1,32}$",
)


NO_MORE_RIGHT_THAN_ASKED = Rule(
    "self.right <= self.samples",
    lambda measured: measured.right <= measured.samples,
    "must not be above samples: lower it",
    "right",
)


class TasksSolved(Model):
    """How many tasks a model solved, of how many. `python -m benchmarks variants` measures it and prints these lines."""

    right: Annotated[int, Field(ge=0, le=10_000_000)]
    """Tasks that were solved."""
    samples: Annotated[int, Field(ge=1, le=10_000_000)]
    """Tasks that were asked."""

    rules = (NO_MORE_RIGHT_THAN_ASKED,)


class VariantSites(Model):
    """Sites that run a variant, of those that the deployment uses. Empty means all of them."""

    names: Annotated[tuple[DnsLabel, ...], Field(min_length=1, max_length=64), Unique()] | None = None
    """Names of the sites."""
    selector: SiteSelector | None = None
    """Labels of the sites."""

    rules = (
        Rule(
            "!(has(self.names) && has(self.selector))",
            lambda sites: sites.names is None or sites.selector is None,
            "names and selector exclude each other: remove one of them",
        ),
    )


class ModelVariant(Model):
    """Another form of the weights, for some sites."""

    name: DnsLabel
    """Name of the variant, unique in the deployment. Statuses, answers and records call it so; `base` is the model itself."""
    quantization: Annotated[str, Field(max_length=32), _QUANTIZATION] | None = None
    """How the weights are quantized: int8-dynamic, int8-weight or int4-weight with the transformers engine, which makes them
    when it loads the model; with vllm what its own option quantization takes. Absent means as they lie at uri."""
    uri: ModelUri | None = None
    """Where the weights of this variant come from; absent means spec.model.uri."""
    sites: VariantSites = VariantSites()
    """Which sites run it. Of several variants for one site the first that reaches qualityFloor counts."""
    quality: TasksSolved | None = None
    """What this variant was measured to solve, of the same tasks as spec.model.quality."""

    rules = (
        Rule(
            "has(self.quantization) || has(self.uri)",
            lambda variant: variant.quantization is not None or variant.uri is not None,
            "is the model itself without quantization and uri: set one of them",
        ),
        Rule(
            "self.name != 'base'",
            lambda variant: variant.name != "base",
            "must not be base, which is what the model itself is called: choose another name",
            "name",
        ),
    )


class ModelSpec(Model):
    """The model to serve."""

    name: ModelName
    """Model id by which clients ask for it, such as "autoglm-phone-9b"."""
    uri: ModelUri
    """Where the weights come from: builtin://autoglm-tiny (a tiny model with random weights, for trying things out),
    builtin://autoglm-tiny-grounded (a tiny model that has learned to tap), file:///absolute/path (a folder on the site's
    machines) or hf://organisation/model (a Hugging Face repository)."""
    variants: Annotated[tuple[ModelVariant, ...], Field(min_length=1, max_length=8), Unique("name")] | None = None
    """Other forms of the weights, and which sites run them. Sites that no variant is for run the model itself."""
    quality: TasksSolved | None = None
    """What the model itself was measured to solve; the quality of a variant is a share of that."""
    quality_floor: Annotated[float, Field(ge=0, le=1)] | None = None
    """Share of the tasks solved by the model itself that a variant must solve. A variant below it gets no requests, and no
    site."""

    rules = (
        Rule(
            "has(self.variants) || !has(self.quality)",
            lambda model: model.variants is not None or model.quality is None,
            "has no effect without variants: add spec.model.variants, or remove it",
            "quality",
        ),
        Rule(
            "has(self.variants) || !has(self.qualityFloor)",
            lambda model: model.variants is not None or model.quality_floor is None,
            "has no effect without variants: add spec.model.variants, or remove it",
            "qualityFloor",
        ),
        Rule(
            "!has(self.variants) || !self.variants.exists(variant, has(variant.quality))"
            " || (has(self.quality) && self.quality.right > 0)",
            lambda model: (
                all(variant.quality is None for variant in model.variants or ())
                or (model.quality is not None and model.quality.right > 0)
            ),
            "must be there, with right above 0, where a variant has a quality, which is a share of it: set it to what"
            " spec.model.uri solves of the same tasks",
            "quality",
        ),
        Rule(
            "!has(self.variants) || !has(self.qualityFloor) || self.variants.all(variant, has(variant.quality))",
            lambda model: (
                model.quality_floor is None or all(variant.quality is not None for variant in model.variants or ())
            ),
            "must all have a quality with spec.model.qualityFloor: measure it by `python -m benchmarks variants`, or remove"
            " qualityFloor",
            "variants",
        ),
    )
