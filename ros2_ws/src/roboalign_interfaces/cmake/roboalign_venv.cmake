# Lets this package build against ROS 2 installed from Python wheels in a virtual environment.
#
# On a real ROS 2 installation (AMENT_PREFIX_PATH is set, or no virtual environment is active) this file does nothing.
# Include it right after project().

if("$ENV{AMENT_PREFIX_PATH}" STREQUAL "" AND NOT "$ENV{VIRTUAL_ENV}" STREQUAL "")
  set(ENV{AMENT_PREFIX_PATH} "$ENV{VIRTUAL_ENV}")
  list(PREPEND CMAKE_PREFIX_PATH "$ENV{VIRTUAL_ENV}")

  # The wheels export include directories of the machine that they were built on; CMake refuses paths that do not exist.
  function(_roboalign_drop_missing_includes)
    get_property(targets DIRECTORY PROPERTY IMPORTED_TARGETS)
    foreach(target IN LISTS targets)
      if(NOT target MATCHES "__rosidl_generator_py$")
        continue()
      endif()
      get_target_property(directories "${target}" INTERFACE_INCLUDE_DIRECTORIES)
      if(NOT directories)
        continue()
      endif()
      set(existing "")
      foreach(directory IN LISTS directories)
        if(directory MATCHES "^\\$<" OR IS_DIRECTORY "${directory}")
          list(APPEND existing "${directory}")
        endif()
      endforeach()
      set_target_properties("${target}" PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${existing}")
    endforeach()
  endfunction()
  cmake_language(DEFER CALL _roboalign_drop_missing_includes)
endif()
