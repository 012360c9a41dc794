"""How the API names Secrets."""

from typing import Annotated

from pydantic import Field

from autoglm_operator.api.base import Model
from autoglm_operator.api.text import DnsLabel, SecretKey


class SecretReference(Model):
    """A key of a Secret."""

    namespace: DnsLabel
    """Namespace of the Secret."""
    name: Annotated[str, Field(min_length=1, max_length=253)]
    """Name of the Secret."""
    key: SecretKey = "token"
    """Key in the Secret."""
