"""A Ray cluster of several raylets on this machine, in a process of its own: ``python -m tests.executors.raylets '{"num_cpus": 2}' …``.

The first node is the head's; each has the resources that it is given, real or not. The process prints the address, then obeys lines of its stdin:
``kill N`` kills a raylet as a power cut would, ``add {…}`` starts one. It answers each with a line, and ends with its stdin.
"""

from __future__ import annotations

import json
import logging
import sys
from typing import Any


def main(nodes: list[dict[str, Any]]) -> None:
    logging.disable(logging.INFO)
    from ray.cluster_utils import Cluster

    quick = {
        "health_check_initial_delay_ms": 1000,
        "health_check_period_ms": 1000,
        "health_check_failure_threshold": 2,
        "worker_niceness": 0,
    }
    cluster = Cluster(initialize_head=True, head_node_args={**nodes[0], "include_dashboard": False, "_system_config": quick})
    started = [cluster.head_node, *(cluster.add_node(**node) for node in nodes[1:])]
    print(cluster.address, flush=True)
    for line in sys.stdin:
        word, _, rest = line.strip().partition(" ")
        if word == "kill":
            cluster.remove_node(started[int(rest)], allow_graceful=False)
        else:
            started.append(cluster.add_node(**json.loads(rest)))
        print("done", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main([json.loads(text) for text in sys.argv[1:]])
