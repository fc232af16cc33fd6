"""Text as bytes: predict the next byte, or masked bytes."""
