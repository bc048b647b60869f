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

.PHONY: help venv demo test lint train-tabletop evaluate-tabletop train-reward tune-reward train-robosuite clean

help:
	@echo 'make venv             virtual environment ($(VENV)) with everything but the extras rlds, perceptual and judge'
	@echo 'make demo             closed loop over ROS 2; report in runs/demo/report.html'
	@echo 'make test             all tests, also those over ROS 2'
	@echo 'make lint             ruff and mypy'
	@echo 'make train-tabletop   collect episodes and train the table-top model anew, into runs/tabletop/model'
	@echo 'make evaluate-tabletop  the studies on held-out episodes; MODEL=runs/tabletop/model for one that is not bundled'
	@echo 'make train-reward     benchmark of videos with scores, and the student reward model on it, into runs/reward/student/model'
	@echo 'make tune-reward      that student, taught on recordings beside their damage, REAL=STORE,...; into runs/reward/tuned/model'
	@echo 'make train-robosuite  collect episodes and train the world model of the robosuite Panda, into runs/robosuite_lift/model'
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
	$(PIP) install -q --no-build-isolation -c requirements/constraints.txt -r requirements/ros_build.txt -e '.[sim,ros,hdf5,rosbag,viz,review,dev]'
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

# --- the bundled models ----------------------------------------------------------------------------------------------
# docs/results.md says how long this takes. Interrupted, the same command goes on where it stopped.

TABLETOP ?= runs/tabletop
MODEL ?= tabletop
ROBOSUITE ?= runs/robosuite_lift
CALM := augmentation.photometric=false augmentation.geometric=false
OBJECTS := red_cube.x,red_cube.y,blue_cylinder.x,blue_cylinder.y
MOVING := stage.balance.share=0.75 'stage.balance.columns=[$(OBJECTS)]' 'stage.state.columns=[finger.x,finger.y,finger.z,$(OBJECTS)]'

train-tabletop: venv
	run='$(BIN)/roboalign'
	"$$run" collect env=tabletop episodes=9000 seed=0 out='$(TABLETOP)/train'
	"$$run" train stage=tokenizer data='[$(TABLETOP)/train]' out='$(TABLETOP)/tokenizer' $(CALM) loop.steps=100000 loop.minutes=17
	"$$run" train stage=dynamics data='[$(TABLETOP)/train]' out='$(TABLETOP)/dynamics' world_model='$(TABLETOP)/tokenizer/model' $(CALM) $(MOVING) stage.cached=24000 loop.steps=100000 loop.minutes=24
	"$$run" train stage=dynamics data='[$(TABLETOP)/train]' out='$(TABLETOP)/refined' world_model='$(TABLETOP)/tokenizer/model' $(CALM) $(MOVING) 'stage.start=[$(TABLETOP)/dynamics]' stage.imagined_share=0.8 stage.own_share=0.4 stage.context_distance=12 stage.own_drift=12 'stage.lengths=[9,13,17]' loop.steps=100000 loop.minutes=62 loop.lr=1.5e-3 loop.warmup=30
	"$$run" train stage=decoder data='[$(TABLETOP)/train]' out='$(TABLETOP)/decoder' world_model='$(TABLETOP)/refined/model' $(CALM) loop.steps=100000 loop.minutes=8
	"$$run" train stage=progress data='[$(TABLETOP)/train]' out='$(TABLETOP)/progress' world_model='$(TABLETOP)/refined/model' loop.steps=2500
	"$$run" train stage=probe data='[$(TABLETOP)/train]' out='$(TABLETOP)/probe' loop.steps=2000
	"$$run" bundle runs='[$(TABLETOP)/tokenizer,$(TABLETOP)/dynamics,$(TABLETOP)/refined,$(TABLETOP)/decoder,$(TABLETOP)/progress,$(TABLETOP)/probe]' data='$(TABLETOP)/train' title='World model of the table-top' window=12 out='$(TABLETOP)/model'

# Held-out episodes have another seed than the training episodes.
evaluate-tabletop: venv
	run='$(BIN)/roboalign'
	"$$run" collect env=tabletop episodes=200 seed=1 boxes=true out='$(TABLETOP)/held_out'
	"$$run" evaluate study=world_model study.world_model='$(MODEL)' study.data='$(TABLETOP)/held_out' out=runs/evaluate/world_model
	"$$run" evaluate study=world_model study.world_model='$(MODEL)' study.data='$(TABLETOP)/held_out' study.order=frame study.mode=swr out=runs/evaluate/world_model_one_pass
	"$$run" evaluate study=closed_loop study.world_model='$(MODEL)' out=runs/evaluate/closed_loop
	"$$run" collect env=tabletop episodes=200 steps=101 seed=2 out='$(TABLETOP)/long'
	"$$run" evaluate study=swr study.world_model='$(MODEL)' study.data='$(TABLETOP)/long' out=runs/evaluate/swr

# The student reward model, on what train-tabletop collected and more. REAL='runs/bridge,runs/droid' adds stores of recorded data, with a share of 0.4 in all.
REWARD ?= runs/reward
SLIGHT := augmentation.brightness=0.04 augmentation.contrast=0.05 augmentation.saturation=0.05 augmentation.hue=0.01 augmentation.zoom=0.02 augmentation.shift=0.03
REAL ?=
MIXTURE := {expert: 0.35, noisy: 0.2, contact: 0.1, random: 0.05, wrong_object: 0.1, no_contact: 0.08, incomplete: 0.07, wrong_direction: 0.05}
WRONG := {instruction_swap: 3, foreign_segment: 1, segment_swap: 1, frame_shuffle: 1, freeze: 1, truncation: 1, time_reversal: 1, flicker: 1.5, blur: 1, texture_drift: 1, object_vanishing: 1, object_teleporting: 1, gravity_break: 1, robot_without_effect: 1, object_without_robot: 1, contact_gap: 1, penetration: 1}
PLACES := 'reward_model.positions=[finger.x,finger.y,finger.z,$(OBJECTS),zone.x,zone.y]' stage.positions_weight=0.3

STUDENT := stage=reward benchmark='$(REWARD)/benchmark' 'stage.recordings=[$(REWARD)/pairs,$(TABLETOP)/train]' reward_model.frames=8 $(PLACES) 'stage.balance=[source,origin]' stage.balance_share=0.3 stage.shortest=6 stage.short_share=0.1 $(SLIGHT) stage.validate_every=100 stage.validation=256 loop.steps=100000

train-reward: venv
	run='$(BIN)/roboalign'
	"$$run" collect env=tabletop episodes=1500 seed=20 boxes=true 'policies.tabletop=$(MIXTURE)' out='$(REWARD)/pairs'
	"$$run" collect env=tabletop episodes=9000 seed=0 out='$(TABLETOP)/train'
	"$$run" collect env=robosuite_lift episodes=100 seed=30 'policies.robosuite_lift={expert: 0.5, random: 0.1, miss: 0.2, drop: 0.2}' out='$(REWARD)/lift'
	real='$(REAL)'
	shares=$$(for _ in $${real//,/ }; do echo 0.4; done | awk '{n++} END {for (i = 0; i < n; i++) printf ",%.4f", 0.4 / n}')
	"$$run" benchmark build out='$(REWARD)/benchmark' "stores=[$(REWARD)/pairs,$(TABLETOP)/train,$(REWARD)/lift$${real:+,$$real}]" "shares=[0.2,0.35,0.05$$shares]" pairs=20000 seed=0 'size=[64,64]' 'origins={recorded: 0.3, degraded: 0.66, generated: 0.04}' 'degradations=$(WRONG)' 'models=[tabletop]' 'instructions={bridge: move the things on the table about, language_table: push the blocks about, bair: push things about}'
	"$$run" train $(STUDENT) out='$(REWARD)/student' stage.recordings_share=0.35 loop.minutes=78
	"$$run" evaluate study=reward study.benchmark='$(REWARD)/benchmark' study.reward='$(REWARD)/student/model' out=runs/evaluate/reward

# That student, taught on recordings beside their damaged versions, those of other cameras among them: REAL='runs/bridge,runs/droid'. Twice, and on from the mean of both.
BESIDE = stage.pairs=96 stage.recordings_share=0.15 'stage.damaged=[$(REAL),$(REWARD)/pairs]'
tune-reward: venv
	test -n '$(REAL)' || { echo "tune-reward: expected REAL='STORE,...' with recorded episodes, found none" >&2; exit 2; }
	run='$(BIN)/roboalign'
	"$$run" train $(STUDENT) $(BESIDE) out='$(REWARD)/beside' 'stage.start=[$(REWARD)/student]' stage.damaged_share=0.55 stage.damaged_weight=2 loop.seed=1 loop.lr=2e-3 loop.minutes=74
	"$$run" train $(STUDENT) $(BESIDE) out='$(REWARD)/beside_too' 'stage.start=[$(REWARD)/student]' stage.damaged_share=0.42 loop.seed=2 loop.lr=2e-3 loop.minutes=74
	"$$run" train $(STUDENT) $(BESIDE) out='$(REWARD)/tuned' 'stage.start=[$(REWARD)/beside,$(REWARD)/beside_too]' stage.damaged_share=0.5 stage.damaged_weight=2 loop.seed=3 loop.lr=1.2e-3 loop.warmup=30 loop.minutes=29

# The robosuite Panda that lifts a cube, at the same 64x64.
LIFT := model=tiny model.dynamics.dim=192 model.dynamics.ffn=576 model.dynamics.max_frames=17 model.dynamics.frame_head_layers=2
LIFTING := stage.balance.share=0.6 'stage.balance.columns=[cube.x,cube.y,cube.z]' 'stage.state.columns=[finger.x,finger.y,finger.z,cube.x,cube.y,cube.z,gripper.opening]'

train-robosuite: venv
	run='$(BIN)/roboalign'
	"$$run" collect env=robosuite_lift episodes=320 seed=0 out='$(ROBOSUITE)/train' 'policies.robosuite_lift={expert: 0.6, random: 0.2, miss: 0.1, drop: 0.1}'
	"$$run" train stage=tokenizer model=tiny data='[$(ROBOSUITE)/train]' out='$(ROBOSUITE)/tokenizer' $(CALM) loop.steps=100000 loop.minutes=24
	"$$run" train stage=dynamics $(LIFT) data='[$(ROBOSUITE)/train]' out='$(ROBOSUITE)/dynamics' world_model='$(ROBOSUITE)/tokenizer/model' $(CALM) $(LIFTING) stage.cached=6000 loop.steps=100000 loop.minutes=18
	"$$run" train stage=dynamics $(LIFT) data='[$(ROBOSUITE)/train]' out='$(ROBOSUITE)/refined' world_model='$(ROBOSUITE)/tokenizer/model' $(CALM) $(LIFTING) 'stage.start=[$(ROBOSUITE)/dynamics]' stage.imagined_share=0.6 stage.own_drift=6 'stage.lengths=[9,17]' loop.steps=100000 loop.minutes=14 loop.lr=1e-3 loop.warmup=30
	"$$run" train stage=decoder data='[$(ROBOSUITE)/train]' out='$(ROBOSUITE)/decoder' world_model='$(ROBOSUITE)/refined/model' $(CALM) loop.steps=100000 loop.minutes=6
	"$$run" train stage=progress data='[$(ROBOSUITE)/train]' out='$(ROBOSUITE)/progress' world_model='$(ROBOSUITE)/refined/model' stage.contexts=2000 loop.steps=800
	"$$run" train stage=probe data='[$(ROBOSUITE)/train]' out='$(ROBOSUITE)/probe' loop.steps=1500
	"$$run" bundle runs='[$(ROBOSUITE)/tokenizer,$(ROBOSUITE)/dynamics,$(ROBOSUITE)/refined,$(ROBOSUITE)/decoder,$(ROBOSUITE)/progress,$(ROBOSUITE)/probe]' data='$(ROBOSUITE)/train' title='World model of the robosuite Panda that lifts a cube' window=12 out='$(ROBOSUITE)/model'

clean:
	rm -rf '$(VENV)' build ros2_ws/build ros2_ws/install ros2_ws/log *.egg-info
