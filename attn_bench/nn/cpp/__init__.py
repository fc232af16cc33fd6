"""C++ that models compile at their first use, and what their sources share."""
