"""The profiles of enrolled speakers: in memory alone, bounded in number and time."""

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable

from ..artifacts.models.enrolment import SpeakerProfile
from .refused import Refused


class Speakers:
    """Profiles by a random id; for one event loop.

    Parameters
    ----------
    most : int
        Number of profiles. One more replaces the one that was not used for longest.
    seconds : float
        A profile that was not used for so long is deleted.
    now : callable
        A clock, in seconds.
    """

    def __init__(
        self, most: int, seconds: float, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._most, self._seconds, self._now = most, seconds, now
        #: With the time of their last use, the oldest first.
        self._profiles: OrderedDict[str, tuple[float, SpeakerProfile]] = OrderedDict()

    def __len__(self) -> int:
        """Return the number of profiles."""
        self._delete_old()
        return len(self._profiles)

    def add(self, profile: SpeakerProfile) -> str:
        """Keep a profile, and return its id, which cannot be guessed."""
        self._delete_old()
        while len(self._profiles) >= self._most:
            self._profiles.popitem(last=False)
        speaker = secrets.token_urlsafe(24)
        self._profiles[speaker] = self._now(), profile
        return speaker

    def use(self, speaker: str) -> SpeakerProfile:
        """Return a profile; raise Refused (404) if there is none."""
        self._delete_old()
        profile = self._take(speaker)
        self._profiles[speaker] = self._now(), profile
        return profile

    def remove(self, speaker: str) -> None:
        """Delete a profile; raise Refused (404) if there is none."""
        self._delete_old()
        self._take(speaker)

    def _take(self, speaker: str) -> SpeakerProfile:
        if speaker not in self._profiles:
            raise Refused(
                404,
                "There is no such speaker, or no longer; enrol the speaker with POST /speakers.",
            )
        return self._profiles.pop(speaker)[1]

    def _delete_old(self) -> None:
        limit = self._now() - self._seconds
        while self._profiles and next(iter(self._profiles.values()))[0] <= limit:
            self._profiles.popitem(last=False)
