"""Multipole attention whose windows lie side by side: torch and C++."""
