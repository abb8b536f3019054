"""Pool the chunks of a long clip together."""

import numpy as np
from numpy.typing import NDArray


def join_chunks(
    pooled: dict[str, NDArray[np.float32]], frames: NDArray[np.int_], owners: NDArray[np.int_]
) -> dict[str, NDArray[np.float32]]:
    """Pool the chunks of each clip together, weighted by their frames.

    Parameters
    ----------
    pooled : dict of str to ndarray of float32, shape (n_layers, n_chunks, width)
        ``"mean"``, and perhaps ``"std"``, of each chunk.
    frames : ndarray of int, shape (n_chunks,)
        Frames of each chunk.
    owners : ndarray of int, shape (n_chunks,)
        Index of the clip of each chunk: 0, 1, ... in order.

    Returns
    -------
    dict of str to ndarray of float32, shape (n_layers, n_clips, width)
        Mean and standard deviation over all frames of a clip: the mean of the means, and the
        variance within chunks plus that between them.
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
