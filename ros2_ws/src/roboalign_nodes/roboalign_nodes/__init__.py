"""ROS 2 nodes around `roboalign_core` and `roboalign_sim`: parameters, QoS and conversions, no learning or planning."""
