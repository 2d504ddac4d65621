class EmbeddedError(Exception):
    """An embedded server cannot be had; the message is one sentence that tells a person why and what to change."""
