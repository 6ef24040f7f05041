# SPDX-License-Identifier: GPL-2.0-only
"""What tests need wherever they are started from.

A shell that puts them into the background has them ignore SIGINT, nohup has them ignore SIGHUP, and so would every
program that they start, among them those that are interrupted: both have their effects again.

Hypothesis without deadlines: a busy machine takes any time, and what things cost is for ``benchmarks/``.

``GMEM_SAME_EXAMPLES=1`` draws the same examples each time, so that CI judges the change and not the draw; without it
each run looks elsewhere, which is how these tests find something.

In a campaign of ``tests.mutation`` (GMEM_MUTATION: examples at most) searches are short and always the same.
"""

from __future__ import annotations

import os
import signal

import hypothesis
import pytest

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

MOST_EXAMPLES = int(os.environ.get("GMEM_MUTATION", "0"))

if not MOST_EXAMPLES:  # a campaign has a profile of its own
    same = os.environ.get("GMEM_SAME_EXAMPLES") == "1"
    hypothesis.settings.register_profile("harness", deadline=None, derandomize=same)
    hypothesis.settings.load_profile("harness")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Shortens the searches of a campaign, also those whose settings name a number."""
    for item in items if MOST_EXAMPLES else ():
        test = getattr(item, "obj", None)
        if getattr(test, "is_hypothesis_test", False):
            test = getattr(test, "__func__", test)
            own = test._hypothesis_internal_use_settings
            most = min(own.max_examples, MOST_EXAMPLES)
            test._hypothesis_internal_use_settings = hypothesis.settings(own, max_examples=most)
