"""Why a model cannot be used. The messages name paths and are for operators, never for clients."""


class ModelNotFound(RuntimeError):
    """There is no model at the given URI, or it cannot be reached now."""


class ModelInvalid(RuntimeError):
    """The model folder is there but cannot be loaded: a part is missing, broken or of another architecture."""
