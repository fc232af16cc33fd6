"""Multipole attention on the CPU, all steps together: C++, and torch where windows do not overlap."""
