"""Recordings of ROS 2 robots: bags of ``ros2 bag record``, in MCAP or SQLite files, and a yaml file of their topics.

From the bottom: `bags` (files and messages), `definitions` (message types), `fields` and `images` (what is in
messages), `options` (the yaml file), `tracks` (one pass over a bag), `alignment` (streams on common frame times),
`episodes` (what belongs to one), `reader`.
"""

from __future__ import annotations

from roboalign_core.episodes.readers.rosbag.reader import RosbagReader

__all__ = ["RosbagReader"]
