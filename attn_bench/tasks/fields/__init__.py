"""Fields from any file: from some arrays of the file to others on the same grid."""
