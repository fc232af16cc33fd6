"""Multipole attention whose windows do not overlap: torch and C++."""
