"""The conformance kit: what every method must satisfy, for this suite's own and for third-party plugins.

In a plugin's tests:

    from petlbench.testing import MethodConformance

    class TestMine(MethodConformance):
        method = "mine"

or on the command line: ``python -m petlbench.testing mine``.
"""

from petlbench.testing.conformance import MethodConformance
from petlbench.testing.mocks import mock_task, tiny_backbone

__all__ = ["MethodConformance", "mock_task", "tiny_backbone"]
