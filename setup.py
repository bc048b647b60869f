"""Build description of `roboalign`: one package for pip and, as ament_python, for colcon."""

from pathlib import Path

from setuptools import find_packages, setup

PACKAGE = "roboalign"
ROOT = Path(__file__).resolve().parent

# One line per extra that a module of ours asks for through `errors.require`.
EXTRAS = {
    # robosuite breaks with newer MuJoCo, and lacks wheels for Python 3.13: see requirements/robosuite_python313.txt.
    "sim": ["mujoco>=3.3,<3.4", "gymnasium>=1.2,<2", "robosuite==1.5.2; python_version < '3.13'"],
    # A distribution from apt (/opt/ros/jazzy) satisfies these as well: then install without this extra.
    "ros": [
        "ros-rclpy[fastrtps]==7.1.6",
        "ros-std-msgs==5.3.6",
        "ros-std-srvs==5.3.6",
        "ros-sensor-msgs==5.3.6",
        "ros-geometry-msgs==5.3.6",
        "ros-trajectory-msgs==5.3.6",
        "ros-diagnostic-msgs==5.3.6",
        "ros-domain-coordinator==0.12.0",
    ],
    "judge": ["torchvision>=0.25", "peft>=0.20", "accelerate>=1.10", "httpx2>=2,<3"],
    "perceptual": ["torchvision>=0.25", "lpips==0.1.4"],
    "hdf5": ["h5py>=3.10"],
    # TensorFlow asks for older releases of h5py or tensorboard than requirements/constraints.txt names.
    "rlds": ["tensorflow>=2.16", "tensorflow-datasets>=4.9.4"],
    "rosbag": ["rosbags>=0.11.9,<0.12", "backports.zstd>=1; python_version < '3.14'"],
    "viz": ["matplotlib>=3.8"],
    "review": ["starlette>=1,<2", "uvicorn>=0.30"],
    "test": ["pytest>=8", "pytest-timeout>=2.3", "hypothesis>=6.100"],
    "dev": ["pytest>=8", "pytest-timeout>=2.3", "hypothesis>=6.100", "ruff>=0.9", "mypy>=1.15", "types-PyYAML"],
}

VERBS = {
    "bench": "roboalign_core.benchmarks.verb:VERB",
    "benchmark.agreement": "roboalign_core.benchmark.agreement:VERB",
    "benchmark.annotate": "roboalign_core.judge.annotate:VERB",
    "benchmark.build": "roboalign_core.benchmark.build:VERB",
    "benchmark.review": "roboalign_core.benchmark.review.verb:VERB",
    "benchmark.stats": "roboalign_core.benchmark.datasheet:VERB",
    "benchmark.verify": "roboalign_core.benchmark.verify:VERB",
    "bundle": "roboalign_core.training.bundle:VERB",
    "collect": "roboalign_sim.collect:VERB",
    "convert": "roboalign_core.episodes.convert:VERB",
    "doctor": "roboalign_core.doctor:VERB",
    "evaluate": "roboalign_core.evaluation.verb:VERB",
    "plan": "roboalign_core.planning.verb:VERB",
    "rollout": "roboalign_core.evaluation.rollout:VERB",
    "score": "roboalign_core.reward.score:VERB",
    "train": "roboalign_core.training.verb:VERB",
}

ORACLES = {
    "robosuite_lift": "roboalign_sim.state_oracle:LIFT",
    "tabletop": "roboalign_sim.state_oracle:TABLETOP",
    "tabletop_orange_cyan": "roboalign_sim.state_oracle:TABLETOP_ORANGE_CYAN",
    "tabletop_swapped": "roboalign_sim.state_oracle:TABLETOP_SWAPPED",
}

STUDIES = {
    "alignment": "roboalign_core.evaluation.alignment:STUDY",
    "closed_loop": "roboalign_sim.study:STUDY",
    "oracle": "roboalign_sim.oracle_study:STUDY",
    "reward": "roboalign_core.evaluation.reward:STUDY",
    "swr": "roboalign_core.evaluation.swr:STUDY",
    "world_model": "roboalign_core.evaluation.world_model:STUDY",
}


def shared(folder: str, pattern: str) -> list[tuple[str, list[str]]]:
    """Files of a folder, as `data_files` entries below share/roboalign that keep the folder's layout."""
    found: dict[str, list[str]] = {}
    for path in sorted((ROOT / folder).rglob(pattern)):
        relative = path.relative_to(ROOT)
        found.setdefault(f"share/{PACKAGE}/{relative.parent.as_posix()}", []).append(relative.as_posix())
    return list(found.items())


setup(
    name=PACKAGE,
    version="0.1.0",
    description="World models for robot manipulation: imagine candidate actions, choose the best, act over ROS 2.",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The RoboAlign developers",
    maintainer="The RoboAlign developers",
    maintainer_email="roboalign@users.noreply.github.com",
    license="Apache-2.0",
    keywords=["robotics", "world model", "planning", "ROS 2"],
    classifiers=[
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    python_requires=">=3.10",
    packages=[
        *find_packages(include=["roboalign_core", "roboalign_core.*"]),
        *find_packages("sim", include=["roboalign_sim", "roboalign_sim.*"]),
    ],
    package_dir={"roboalign_sim": "sim/roboalign_sim"},
    package_data={
        "roboalign_core": ["py.typed", "models/**/*", "assets/**/*"],
        "roboalign_sim": ["py.typed", "assets/**/*", "**/*.xml"],
    },
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
        (f"share/{PACKAGE}", ["package.xml"]),
        *shared("launch", "*.launch.py"),
        *shared("configs", "*.yaml"),
    ],
    install_requires=[
        "torch>=2.10",
        "numpy>=1.26",
        "transformers>=5,<6",
        "safetensors>=0.5",
        "hydra-core>=1.3,<1.4",
        "omegaconf>=2.3,<2.4",
        "pyarrow>=17,<26",  # 26 wants numpy 2 without saying so; robosuite wants numpy 1
        "av>=14",
        "pillow>=10",
        "pyyaml>=6",
        "rich>=13",
        "tensorboard>=2.16",
    ],
    extras_require=EXTRAS,
    entry_points={
        "console_scripts": ["roboalign = roboalign_core.cli:main"],
        "roboalign.verbs": [f"{name} = {target}" for name, target in VERBS.items()],
        "roboalign.oracles": [f"{name} = {target}" for name, target in ORACLES.items()],
        "roboalign.studies": [f"{name} = {target}" for name, target in STUDIES.items()],
    },
    zip_safe=False,
)
