"""End-to-end stories: the real workers as processes, a real broker, the simulated providers on sockets."""

from __future__ import annotations

import pytest

from tests.support.stories import Story


@pytest.fixture
async def story(broker, prefix, tmp_path):
    """A running pipeline on either broker; see ``Story``."""
    async with Story(broker, prefix, tmp_path) as found:
        yield found


@pytest.fixture
async def apache_story(apache_broker, prefix, tmp_path):
    """A running pipeline on Apache Kafka."""
    async with Story(apache_broker, prefix, tmp_path) as found:
        yield found
