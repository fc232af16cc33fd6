"""neuraloperator's operators in the frequency domain.

CODANO is not included: it attends over the input's channels, so that with one channel (Darcy) there is nothing to
attend to, and it has as many outputs as inputs.
"""
