"""Files of arrays, as users have them."""

from __future__ import annotations

import h5py
import numpy as np
import scipy.io
import torch


def save(path, arrays):
    """Save by the extension; .mat in version 5."""
    if path.suffix == ".mat":
        scipy.io.savemat(path, arrays)
    elif path.suffix in (".h5", ".hdf5"):
        with h5py.File(path, "w") as file:
            for name, array in arrays.items():
                file[name] = array
    elif path.suffix == ".pt":
        torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, path)
    else:
        np.savez(path, **arrays)
    return str(path)
