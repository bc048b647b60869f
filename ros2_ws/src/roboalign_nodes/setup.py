"""Build description of the nodes, for pip and, as ament_python, for colcon."""

from setuptools import find_packages, setup

PACKAGE = "roboalign_nodes"
NODES = ("robot_sim", "world_model", "planner")

setup(
    name=PACKAGE,
    version="0.1.0",
    description="The closed loop over ROS 2: a simulated robot, a world model, a planner.",
    author="The RoboAlign developers",
    maintainer="The RoboAlign developers",
    maintainer_email="roboalign@users.noreply.github.com",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=[PACKAGE, f"{PACKAGE}.*"]),
    package_data={PACKAGE: ["py.typed", "data/*.xml"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
        (f"share/{PACKAGE}", ["package.xml"]),
    ],
    install_requires=["setuptools", "numpy", "rich"],
    extras_require={"test": ["pytest"]},
    entry_points={
        "console_scripts": [f"{node} = {PACKAGE}.{node}:main" for node in NODES],
        "roboalign.verbs": [f"demo = {PACKAGE}.demo:VERB"],
    },
    zip_safe=False,
)
