"""Why a model cannot be used. The messages name paths and are for operators, never for clients."""


def one_line(error: BaseException) -> str:
    """An error's type and message as one line: Serve and the ranks of a gang pass on lines."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


class ModelNotFound(RuntimeError):
    """There is no model at the given URI, or it cannot be reached now."""


class ModelInvalid(RuntimeError):
    """The model folder is there but cannot be loaded: a part is missing, broken or of another architecture."""
