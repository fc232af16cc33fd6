"""Text, byte by byte: predict the next byte, or bytes that are masked."""
