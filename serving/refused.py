"""Refusals of the server: a status and one sentence."""

from collections.abc import Mapping

from ..errors import BadClipError, UserError, first_line


class Refused(Exception):  # noqa: N818
    """A request is refused with an HTTP status, 400 or above, and one sentence for the client."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        self.status, self.detail, self.headers = status, detail, dict(headers or {})
        super().__init__(detail)


def unusable(error: UserError) -> Refused:
    """Return the refusal (422) of audio that cannot be used.

    The error of the decoder or model also names the clip and says what to do with a file on disk;
    both are omitted.
    """
    if isinstance(error, BadClipError):
        _, problem, expected, _ = error.parts
        wanted = f"; expected {expected}" if expected else ""
        return Refused(422, f"The audio {problem}{wanted}.")
    return Refused(422, f"The audio cannot be used: {first_line(error).rstrip('.')}.")
