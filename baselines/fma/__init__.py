"""Fast Multipole Attention (arXiv:2310.11960): exact attention to what is near, to summaries of what is far."""
