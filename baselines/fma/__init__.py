"""Fast Multipole Attention (arXiv:2310.11960): attention to near tokens, and to summaries of far ones."""
