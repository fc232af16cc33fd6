"""neuraloperator's operators in the frequency domain.

Its CODANO is left out: it attends over the input's channels, so that with one channel (Darcy) there is nothing to
attend to, and it has as many outputs as inputs.
"""
