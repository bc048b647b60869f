"""The table-top scene as MJCF.

World frame: right-handed, metres, origin in the middle of the table's top; x to the right in the image, y away from the
camera ("forward"), z up. (REP-103's x-forward body frame is this frame turned by 90 degrees about z.)

Nothing here falls: the finger hangs on a gantry of three slides, and the objects slide on the table on two slides and a
vertical hinge whose dry friction stands for the table's. So an object never tips, never rolls away, and stops when the
finger stops; gravity has nothing left to do and is off.
"""

from __future__ import annotations

import math

TABLE_HALF = 0.20  # m
FINGER_RADIUS = 0.016  # m, the round tip
SPOT_RADIUS = 0.019  # m, of the light that the carriage throws straight down
FINGER_XY_LIMIT = 0.18  # m, the tip's centre stays within +- this
FINGER_Z_RANGE = (0.020, 0.090)  # m, the tip's centre: at the height of the objects .. above them
CLEARANCE_Z = 0.074  # m, from this height on the tip passes over both objects
OBJECT_HALF = 0.0275  # m, half the cube's edge and the cylinder's radius
CUBE_HEIGHT = 0.055  # m
CYLINDER_HEIGHT = 0.045  # m
OBJECT_LIMIT = 0.168  # m, an object's centre stays within +- this
ZONE_RADIUS = 0.045  # m
OBJECTS = ("red_cube", "blue_cylinder")  # named by their standard colours
MASKED = ("finger", *OBJECTS, "zone")
TIMESTEP = 0.005  # s

COLOURS: dict[str, dict[str, str]] = {
    "standard": {"red_cube": "red", "blue_cylinder": "blue"},
    "swapped": {"red_cube": "blue", "blue_cylinder": "red"},
    "orange_cyan": {"red_cube": "orange", "blue_cylinder": "cyan"},
}
"""What the objects are painted with, by scheme."""
_RGB = {
    "red": "0.92 0.10 0.08",
    "blue": "0.08 0.22 0.95",
    "orange": "0.95 0.45 0.05",
    "cyan": "0.05 0.75 0.85",
}

TABLE_RGB = (0.50, 0.50, 0.52)
LIGHT_STRENGTH = 0.55

_CAMERA_ELEVATION = math.radians(62.0)
_CAMERA_DISTANCE = 1.6  # m: far away with a narrow view, so that a centimetre is nearly the same everywhere
_CAMERA_TARGET = (0.0, 0.0, 0.03)
_VISIBLE_WIDTH = 0.415  # m at the target

# A finger that pushes 1 N of dry friction, and presses from above with less than drags an object along.
_OBJECT_FRICTION_N = 1.0
_YAW_FRICTION_NM = 0.012
_PRESS_LIMIT_N = 1.5
_PUSH_LIMIT_N = 15.0


def _camera() -> str:
    c, s = math.cos(_CAMERA_ELEVATION), math.sin(_CAMERA_ELEVATION)
    x, y, z = _CAMERA_TARGET
    fovy = math.degrees(2 * math.atan(_VISIBLE_WIDTH / 2 / _CAMERA_DISTANCE))
    return (
        f'<camera name="front" pos="{x} {y - _CAMERA_DISTANCE * c:.5f} {z + _CAMERA_DISTANCE * s:.5f}" '
        f'xyaxes="1 0 0 0 {s:.5f} {c:.5f}" fovy="{fovy:.4f}"/>'
    )


def _object(name: str, shape: str, colour: str) -> str:
    height = CUBE_HEIGHT if name == "red_cube" else CYLINDER_HEIGHT
    slide = f'type="slide" frictionloss="{_OBJECT_FRICTION_N}" range="{-OBJECT_LIMIT} {OBJECT_LIMIT}" limited="true"'
    return f"""
    <body name="{name}" pos="0 0 {height / 2}">
      <joint name="{name}_x" axis="1 0 0" {slide}/>
      <joint name="{name}_y" axis="0 1 0" {slide}/>
      <joint name="{name}_yaw" axis="0 0 1" type="hinge" frictionloss="{_YAW_FRICTION_NM}" damping="0.0005"/>
      <geom name="{name}" {shape} mass="0.15" rgba="{_RGB[colour]} 1" contype="1" conaffinity="1"/>
    </body>"""


def words(name: str, colours: str) -> str:
    """An object in words under a scheme of ``COLOURS``, e.g. ``"red cube"``."""
    return f"{COLOURS[colours][name]} {shape(name)}"


def shape(name: str) -> str:
    """An object's shape in words, which no paint changes."""
    return name.rsplit("_", 1)[1]


def build_xml(height: int, width: int, colours: str = "standard") -> str:
    """MJCF of the scene, with an offscreen buffer of ``height`` x ``width`` pixels; objects in a scheme's colours."""
    paint = COLOURS[colours]
    cube = f'type="box" size="{OBJECT_HALF} {OBJECT_HALF} {CUBE_HEIGHT / 2}"'
    cylinder = f'type="cylinder" size="{OBJECT_HALF} {CYLINDER_HEIGHT / 2}"'
    xy_range = f'range="{-FINGER_XY_LIMIT} {FINGER_XY_LIMIT}" limited="true"'
    low, high = FINGER_Z_RANGE
    table = " ".join(map(str, TABLE_RGB))
    push = f'forcerange="-{_PUSH_LIMIT_N} {_PUSH_LIMIT_N}"'
    xy_control = f'kp="2000" kv="50" ctrlrange="{-FINGER_XY_LIMIT} {FINGER_XY_LIMIT}" {push}'
    press = f'forcerange="-{_PRESS_LIMIT_N} {_PRESS_LIMIT_N}"'
    return f"""
<mujoco model="tabletop">
  <compiler angle="radian" autolimits="true"/>
  <option timestep="{TIMESTEP}" gravity="0 0 0" integrator="implicitfast" solver="Newton" iterations="8"
          ls_iterations="8" cone="pyramidal"><flag multiccd="disable"/></option>
  <visual>
    <global offwidth="{width}" offheight="{height}"/>
    <!-- Round things of few slices cost half as much, and 64 pixels do not tell. -->
    <quality offsamples="4" shadowsize="0" numslices="16" numstacks="8" numquads="1"/>
    <headlight ambient="0.35 0.35 0.35" diffuse="0.1 0.1 0.1" specular="0 0 0"/>
    <map znear="0.05" zfar="20"/>
  </visual>
  <default><geom contype="0" conaffinity="0" friction="0.5 0.005 0.0001" condim="3"/></default>
  <asset><material name="tip" rgba="1.0 0.80 0.0 1" emission="0.45" specular="0"/>
         <material name="spot" rgba="1.0 0.10 0.90 1" emission="0.6" specular="0"/></asset>
  <worldbody>
    <light name="lamp" directional="true" pos="0 0 2" dir="0.35 0.3 -1" castshadow="false"
           diffuse="{LIGHT_STRENGTH} {LIGHT_STRENGTH} {LIGHT_STRENGTH}" specular="0.05 0.05 0.05"/>
    {_camera()}
    <geom name="floor" type="plane" size="2 2 0.1" pos="0 0 -0.03" rgba="0.14 0.14 0.16 1"/>
    <geom name="table" type="box" size="{TABLE_HALF} {TABLE_HALF} 0.01" pos="0 0 -0.01" rgba="{table} 1"/>
    <body name="zone" mocap="true">
      <geom name="zone" type="cylinder" size="{ZONE_RADIUS} 0.0004" pos="0 0 0.0004" rgba="0.10 0.72 0.22 1"/>
    </body>
    {_object("red_cube", cube, paint["red_cube"])}
    {_object("blue_cylinder", cylinder, paint["blue_cylinder"])}
    <body name="carriage">
      <joint name="finger_x" type="slide" axis="1 0 0" {xy_range}/>
      <joint name="finger_y" type="slide" axis="0 1 0" {xy_range}/>
      <!-- A pointer's spot of light under the tip: it alone tells height from distance in the image. -->
      <geom name="spot" type="cylinder" size="{SPOT_RADIUS} 0.0002" pos="0 0 0.0012" mass="0.05" material="spot"/>
      <body name="finger">
        <joint name="finger_z" type="slide" axis="0 0 1" range="{low} {high}" limited="true"/>
        <geom name="finger" type="sphere" size="{FINGER_RADIUS}" mass="0.2" material="tip" contype="1" conaffinity="1"/>
        <geom name="stem" type="cylinder" fromto="0 0 0.012 0 0 0.055" size="0.005" mass="0.05" material="tip"/>
      </body>
    </body>
  </worldbody>
  <actuator>
    <position joint="finger_x" {xy_control}/>
    <position joint="finger_y" {xy_control}/>
    <position joint="finger_z" kp="1000" kv="32" ctrlrange="{low} {high}" {press}/>
  </actuator>
</mujoco>"""
