"""Pool the chunks of a long clip together."""

import numpy as np
from numpy.typing import NDArray


def join_chunks(
    pooled: dict[str, NDArray[np.float32]], frames: NDArray[np.int_], owners: NDArray[np.int_]
) -> dict[str, NDArray[np.float32]]:
    """Pool the chunks of each clip together, weighted by their frames.

    ``pooled`` holds ``"mean"``, and perhaps ``"std"``, of each chunk, shape (n_layers, n_chunks,
    width); ``frames`` its number of frames, and ``owners`` the index of its clip: 0, 1, ... in
    order. Return mean and standard deviation over all frames of a clip, shape (n_layers, n_clips,
    width): the mean of the means, and the variance within chunks plus that between them.
    """
    clips = [owners == owner for owner in range(owners[-1] + 1)]
    mean, std = pooled["mean"].astype(np.float64), pooled.get("std")
    means, stds = [], []
    for mine in clips:
        weights = (frames[mine] / frames[mine].sum())[None, :, None]
        centre = (weights * mean[:, mine]).sum(axis=1)
        means.append(centre)
        if std is not None:
            between = (mean[:, mine] - centre[:, None]) ** 2
            within = std[:, mine].astype(np.float64) ** 2
            stds.append(np.sqrt((weights * (within + between)).sum(axis=1)))
    joined = {"mean": np.stack(means, axis=1).astype(np.float32)}
    if std is not None:
        joined["std"] = np.stack(stds, axis=1).astype(np.float32)
    return joined
