"""From records to what they say: aggregates, statistics, tradeoffs, checks, merged folders, flat tables. Reads records, computes, writes no picture."""
