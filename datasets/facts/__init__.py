"""Facts about datasets: datasets.yaml and classnames.yaml, read by ``petlbench.datasets._facts``."""
