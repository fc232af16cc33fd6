"""Sets for the whole process what others rely on."""

import os
import signal

import torch

torch.set_default_dtype(torch.float64)
torch.set_num_threads(1)
torch.set_grad_enabled(False)
torch.manual_seed(123)
os.environ["OMP_NUM_THREADS"] = "1"
os.chdir("/")
signal.signal(signal.SIGTERM, signal.SIG_IGN)
