"""How the API chooses sites by their labels."""

from typing import Annotated

from pydantic import Field

from autoglm_operator.api.base import Model
from autoglm_operator.api.text import LabelValue


class SiteSelector(Model):
    """Chooses sites by their labels."""

    match_labels: Annotated[dict[Annotated[str, Field(max_length=317)], LabelValue], Field(max_length=16)] = Field(
        default={}
    )
    """Labels that a site must have, all of them. Empty matches every site."""
