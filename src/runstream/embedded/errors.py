class EmbeddedError(Exception):
    """An embedded server cannot be had; the message is one sentence that says why and what to change."""
