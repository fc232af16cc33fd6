"""neuraloperator's Fourier neural operator."""
