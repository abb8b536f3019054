"""What the server does not do: a status and one sentence."""

from collections.abc import Mapping

from ..errors import BadClipError, UserError, first_line


class Refused(Exception):  # noqa: N818
    """A request is not answered.

    Parameters
    ----------
    status : int
        Of HTTP, from 400 on.
    detail : str
        One sentence for whoever asked: what was found and what was expected.
    headers : mapping of str to str, optional
        To send with it.
    """

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        self.status, self.detail, self.headers = status, detail, dict(headers or {})
        super().__init__(detail)


def unusable(error: UserError) -> Refused:
    """Return the refusal of audio that cannot be used.

    Parameters
    ----------
    error : UserError
        What the decoder or the model found. What a clip is called there, and what to do with the
        file on a disk, is left out.

    Returns
    -------
    Refused
        With status 422.
    """
    if isinstance(error, BadClipError):
        _, found, expected, _ = error.parts
        return Refused(422, f"The audio {found}; expected {expected}.")
    return Refused(422, f"The audio cannot be used: {first_line(error).rstrip('.')}.")
