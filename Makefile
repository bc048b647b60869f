# make demo   the closed loop over ROS 2, from a fresh clone
# make test   every test
# make help   the rest
#
# PYTHON=/path/to/python3 chooses the interpreter, VENV=folder the virtual environment.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.ONESHELL:
.NOTPARALLEL:
.SILENT:

VENV ?= .venv
STAMPS := $(VENV)/.stamps
BIN := $(VENV)/bin
PIP := PYTHONWARNINGS=ignore $(BIN)/python -m pip --disable-pip-version-check

INTERFACES := ros2_ws/src/roboalign_interfaces
NODES := ros2_ws/src/roboalign_nodes
INTERFACE_FILES := $(shell find $(INTERFACES) -type f 2>/dev/null)

# The venv brings ROS 2 as wheels. A sourced ROS 2 installation would mix its libraries with these.
ifdef ROS_DISTRO
unexport PYTHONPATH AMENT_PREFIX_PATH CMAKE_PREFIX_PATH COLCON_PREFIX_PATH LD_LIBRARY_PATH
endif

.PHONY: help venv demo test lint train-tabletop clean

help:
	@echo 'make venv             virtual environment with everything in it ($(VENV))'
	@echo 'make demo             closed loop over ROS 2; report in runs/demo/report.html'
	@echo 'make test             all tests, also those over ROS 2'
	@echo 'make lint             ruff and mypy'
	@echo 'make train-tabletop   collect episodes and train the bundled model anew'
	@echo 'make clean            remove $(VENV) and build results (runs/ stays)'

# --- installation: each step leaves a stamp, and runs again when what it was made from changes -----------------------

venv: $(STAMPS)/packages $(STAMPS)/interfaces $(STAMPS)/nodes

$(STAMPS)/python: requirements/system.sh
	python=$$(PYTHON='$(PYTHON)' bash requirements/system.sh)
	echo "virtual environment: $(VENV), of $$python"
	"$$python" -m venv '$(VENV)'
	mkdir -p '$(STAMPS)'
	$(PIP) install -q --upgrade pip 'setuptools<80' wheel
	touch '$@'

$(STAMPS)/torch: requirements/torch.txt $(STAMPS)/python
	$(PIP) install -q -r requirements/torch.txt
	touch '$@'

$(STAMPS)/packages: setup.py requirements/constraints.txt requirements/ros_build.txt requirements/robosuite_python313.txt $(STAMPS)/torch
	echo 'installing Python packages (about a minute)'
	$(PIP) install -q --no-build-isolation -c requirements/constraints.txt -r requirements/ros_build.txt -e '.[sim,ros,viz,dev]'
	if $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 13))'; then
	    $(PIP) install -q --no-build-isolation -c requirements/constraints.txt -r requirements/robosuite_python313.txt
	    $(PIP) install -q --no-deps mink==0.0.5 robosuite==1.5.2
	fi
	touch '$@'

$(STAMPS)/interfaces: $(INTERFACE_FILES) $(STAMPS)/packages
	echo 'compiling the ROS 2 interfaces (about half a minute)'
	source '$(BIN)/activate'
	$(PIP) install -q --no-build-isolation --no-deps ./$(INTERFACES)
	touch '$@'

$(STAMPS)/nodes: $(NODES)/setup.py $(STAMPS)/packages
	$(PIP) install -q --no-build-isolation --no-deps -e ./$(NODES)
	touch '$@'

# --- use -------------------------------------------------------------------------------------------------------------

demo: venv
	'$(BIN)/roboalign' demo

test: venv
	'$(BIN)/pytest' -q

lint: venv
	'$(BIN)/ruff' check .
	'$(BIN)/ruff' format --check .
	'$(BIN)/mypy'

# --- the bundled model -----------------------------------------------------------------------------------------------
# About 70 minutes on two cores. Interrupted, the same command goes on where it stopped.

TABLETOP ?= runs/tabletop
EPISODES ?= 3000
TOKENIZER_MINUTES ?= 25
DYNAMICS_MINUTES ?= 30
PROGRESS_MINUTES ?= 5

train-tabletop: venv
	'$(BIN)/roboalign' collect env=tabletop episodes=$(EPISODES) seed=0 out='$(TABLETOP)/train'
	'$(BIN)/roboalign' train stage=tokenizer data='[$(TABLETOP)/train]' out='$(TABLETOP)/tokenizer' loop.minutes=$(TOKENIZER_MINUTES)
	'$(BIN)/roboalign' train stage=dynamics data='[$(TABLETOP)/train]' out='$(TABLETOP)/dynamics' world_model='$(TABLETOP)/tokenizer/model' loop.minutes=$(DYNAMICS_MINUTES)
	'$(BIN)/roboalign' train stage=progress data='[$(TABLETOP)/train]' out='$(TABLETOP)/progress' world_model='$(TABLETOP)/dynamics/model' loop.minutes=$(PROGRESS_MINUTES)

clean:
	rm -rf '$(VENV)' build ros2_ws/build ros2_ws/install ros2_ws/log *.egg-info
