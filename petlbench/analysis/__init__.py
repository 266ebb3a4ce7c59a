"""Evaluate records: aggregates, statistics, tradeoffs, checks, merged folders, flat tables. Reads records, computes, writes no picture."""
